-- Queues: what waits for a worker, and what a worker has claimed.
--
-- All functions have the same KEYS, those of one queue:
--   items: id to its record                     waiting: `<tenant>/<9 - priority>/<order>/<id>`, claimed in that order
--   since: id by when it could be claimed       delayed: `<tenant>/<id>` by when it is due
--   turns: tenant by the turns it got, each divided by its weight
--   counts: tenant to how many items it has that count     order: how many items waited so far
--   claimed: stream of what workers hold, each with its id and its tenant
--   wake: stream of one entry, a new one when something was put
--   dead: list of what nobody could read, the newest first, packed: id, when, and the record as it was
-- Fields of a record, packed: tenant priority weight body trace due deliveries state place again free
--   state: waiting or delayed (place: its member there), or claimed (place: its entry in the stream)
--   again: it was put once more while it was claimed        free: it does not count: it belongs to what was accepted

local QUEUE_FULL_MS, QUEUE_DEAD_MS = 1000, 14 * 24 * HOUR_MS

local function queue_keys(keys)
  return {
    items = keys[1], waiting = keys[2], since = keys[3], delayed = keys[4], turns = keys[5], counts = keys[6],
    order = keys[7], claimed = keys[8], wake = keys[9], dead = keys[10],
  }
end

-- The record of an item; nil: there is none, or it cannot be read.
local function queue_load(q, id)
  local packed = redis.call('HGET', q.items, id)
  local read, item = pcall(cmsgpack.unpack, packed or '')
  return read and type(item) == 'table' and item or nil
end

local function queue_save(q, id, item)
  redis.call('HSET', q.items, id, cmsgpack.pack(item))
end

local function queue_wake(q)
  redis.call('XADD', q.wake, 'MAXLEN', 1, '*', 'w', '')
end

-- The tenant's part of `waiting` and `delayed`. Its length goes first, so that no tenant is the beginning of another.
local function queue_prefix(tenant)
  return #tenant .. ':' .. tenant .. '/'
end

-- Tenant and id of a member of `delayed`: a record that is damaged does not say whose it was. No tenant: somebody else
-- wrote it there.
local function queue_read_delayed(member)
  local length, rest = string.match(member, '^(%d+):(.*)$')
  if not length then
    return nil, member
  end
  return string.sub(rest, 1, tonumber(length)), string.sub(rest, tonumber(length) + 2)
end

-- Lets an item wait until it is due, or for its turn. A tenant that has nothing waiting begins level with the one whose
-- turn it is, so that it neither waits for those before it nor is paid for having been away.
local function queue_wait(q, id, item, now)
  if item.due > now then
    item.state, item.place = 'delayed', queue_prefix(item.tenant) .. id
    redis.call('ZADD', q.delayed, text(item.due), item.place)
  else
    local order = string.format('%016.0f', redis.call('INCR', q.order))
    item.state = 'waiting'
    item.place = queue_prefix(item.tenant) .. (9 - item.priority) .. '/' .. order .. '/' .. id
    redis.call('ZADD', q.waiting, 0, item.place)
    redis.call('ZADD', q.since, text(math.max(item.due, item.since)), id)
    if not redis.call('ZSCORE', q.turns, item.tenant) then
      local first = redis.call('ZRANGE', q.turns, 0, 0, 'WITHSCORES')
      redis.call('ZADD', q.turns, first[2] or 0, item.tenant)
    end
  end
  queue_save(q, id, item)
end

local function queue_count(q, item, by)
  if not item.free and redis.call('HINCRBY', q.counts, item.tenant, by) <= 0 then
    redis.call('HDEL', q.counts, item.tenant)
  end
end

-- Keeps an item as it is among the dead, the newest `most` of them, and takes it out. The tenant may not be known.
local function queue_bury(q, id, tenant, most)
  local packed = redis.call('HGET', q.items, id)
  if packed then
    redis.call('LPUSH', q.dead, cmsgpack.pack({id, now_ms(), packed}))
    redis.call('LTRIM', q.dead, 0, most - 1)
    redis.call('PEXPIRE', q.dead, QUEUE_DEAD_MS)
    redis.call('HDEL', q.items, id)
    if tenant then -- whether it counted nobody knows of what is damaged: nearly all do
      queue_count(q, {tenant = tenant}, -1)
    end
  end
end

-- When the first of those that are delayed is due; nil: none is.
local function queue_soonest(q)
  return tonumber(redis.call('ZRANGE', q.delayed, 0, 0, 'WITHSCORES')[2])
end

-- queue_put: puts items, all or none. Wakes whoever waits if one can be claimed now, or is due before all others.
-- ARGV max_of_a_tenant, 0 for any number: they do not count, [id tenant priority weight due_ms body trace ...]
--   Reply: OK
--   due_ms: with a `+` before it, from now on
-- QUEUE_FULL: a tenant would have more than max_of_a_tenant
local function queue_put(keys, args)
  local q, now, most, new, added = queue_keys(keys), now_ms(), tonumber(args[1]), {}, {}
  for at = 2, #args, 7 do
    local id, tenant = args[at], args[at + 1]
    if not new[id] and redis.call('HEXISTS', q.items, id) == 0 then
      new[id] = true
      added[tenant] = (added[tenant] or 0) + 1
    end
  end
  for tenant, count in pairs(added) do
    if most > 0 and tonumber(redis.call('HGET', q.counts, tenant) or 0) + count > most then
      return refuse('QUEUE_FULL', QUEUE_FULL_MS)
    end
  end
  local soonest, wakes = queue_soonest(q) or math.huge, false
  for at = 2, #args, 7 do
    local id, old, due = args[at], queue_load(q, args[at]), tonumber(args[at + 4])
    if string.sub(args[at + 4], 1, 1) == '+' then
      due = now + due
    end
    local item = {
      tenant = args[at + 1], priority = tonumber(args[at + 2]), weight = args[at + 3], due = due,
      body = args[at + 5], trace = args[at + 6], since = now, deliveries = 0, again = 0, free = most == 0,
    }
    if not old then
      queue_count(q, item, new[id] and 1 or 0) -- one that is damaged was counted
      queue_wait(q, id, item, now)
      wakes = wakes or item.due <= now
    elseif old.state == 'delayed' and old.tenant == item.tenant and item.due < old.due then
      redis.call('ZREM', q.delayed, old.place)
      old.due, old.since = item.due, now
      queue_wait(q, id, old, now)
      wakes = wakes or item.due <= now
    elseif old.state == 'claimed' and old.tenant == item.tenant then
      item.state, item.place, item.deliveries, item.again = old.state, old.place, old.deliveries, 1
      item.free = old.free
      queue_save(q, id, item)
    end
  end
  if wakes or (queue_soonest(q) or math.huge) < soonest then
    queue_wake(q)
  end
  return redis.status_reply('OK')
end

-- queue_remove: takes out what waits.
-- ARGV id   Reply: 1, or 0 when it is not there or claimed; then it does not wait anew either
local function queue_remove(keys, args)
  local q, id = queue_keys(keys), args[1]
  local item = queue_load(q, id)
  if not item then
    return 0
  end
  if item.state == 'claimed' then
    item.again = 0
    queue_save(q, id, item)
    return 0
  end
  redis.call('ZREM', q.delayed, item.place)
  redis.call('ZREM', q.since, id)
  redis.call('ZREM', q.waiting, item.place)
  redis.call('HDEL', q.items, id)
  queue_count(q, item, -1)
  return 1
end

-- queue_stats: what is in a queue.
-- Reply: {waiting, delayed, claimed, ms since when the oldest of those waiting could be claimed, dead}
local function queue_stats(keys)
  local q, now = queue_keys(keys), now_ms()
  local due = redis.call('ZCOUNT', q.delayed, '-inf', text(now))
  local oldest = now
  for _, key in ipairs({q.since, q.delayed}) do
    oldest = math.min(oldest, tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or now))
  end
  local waiting, delayed = redis.call('ZCARD', q.waiting), redis.call('ZCARD', q.delayed)
  return {waiting + due, delayed - due, redis.call('XLEN', q.claimed), now - oldest, redis.call('LLEN', q.dead)}
end

redis.register_function('queue_put_VERSION', queue_put)
redis.register_function('queue_remove_VERSION', queue_remove)
redis.register_function{function_name = 'queue_stats_VERSION', callback = queue_stats, flags = {'no-writes'}}
