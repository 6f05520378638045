-- Queues: what waits for a worker, and what a worker has claimed.
--
-- All functions have the same KEYS, those of one queue:
--   items: id to its record                     waiting: `<tenant>/<9 - priority>/<order>/<id>`, claimed in that order
--   since: id by when it could be claimed       delayed: id by when it is due
--   turns: tenant by the turns it got, each divided by its weight
--   counts: tenant to how many items it has     order: how many items waited so far
--   claimed: stream of what workers hold        wake: stream of one entry, a new one when something was put
--   dead: list of what nobody could read, the newest first, packed: id, when, and the record as it was
-- Fields of a record, packed: tenant priority weight body trace due deliveries state place again
--   state: waiting (place: its member there), delayed, or claimed (place: its entry in the stream)
--   again: it was put once more while it was claimed

local QUEUE_GROUP, QUEUE_PROMOTED, QUEUE_FULL_MS = 'workers', 500, 1000
local QUEUE_DEAD, QUEUE_DEAD_MS = 100, 14 * 24 * HOUR_MS

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

-- The tenant's part of `waiting`. Its length goes before it, so that no tenant is the beginning of another.
local function queue_prefix(tenant)
  return #tenant .. ':' .. tenant .. '/'
end

-- Lets an item wait until it is due, or for its turn. A tenant that has nothing waiting begins level with the one whose
-- turn it is, so that it neither waits for those before it nor is paid for having been away.
local function queue_wait(q, id, item, now)
  if item.due > now then
    redis.call('ZADD', q.delayed, text(item.due), id)
    item.state, item.place = 'delayed', ''
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

local function queue_count(q, tenant, by)
  if redis.call('HINCRBY', q.counts, tenant, by) <= 0 then
    redis.call('HDEL', q.counts, tenant)
  end
end

-- Keeps an item as it is among the dead, and takes it out. The tenant may not be known.
local function queue_bury(q, id, tenant)
  local packed = redis.call('HGET', q.items, id)
  if packed then
    redis.call('LPUSH', q.dead, cmsgpack.pack({id, now_ms(), packed}))
    redis.call('LTRIM', q.dead, 0, QUEUE_DEAD - 1)
    redis.call('PEXPIRE', q.dead, QUEUE_DEAD_MS)
    redis.call('HDEL', q.items, id)
    if tenant then
      queue_count(q, tenant, -1)
    end
  end
end

-- The item, if it is held by this claim of it. ARGV id ticket deliveries
local function queue_held(q, args)
  local item = queue_load(q, args[1])
  if item and item.state == 'claimed' and item.place == args[2] and item.deliveries == tonumber(args[3]) then
    return item
  end
end

local function queue_let_go(q, ticket)
  redis.call('XACK', q.claimed, QUEUE_GROUP, ticket)
  redis.call('XDEL', q.claimed, ticket)
end

-- When the first of those that are delayed is due; nil: none is.
local function queue_soonest(q)
  return tonumber(redis.call('ZRANGE', q.delayed, 0, 0, 'WITHSCORES')[2])
end

-- queue_put: puts items, all or none. Wakes whoever waits if one can be claimed now, or is due before all others.
-- ARGV max_of_a_tenant, 0 for any number, [id tenant priority weight due_ms body trace ...]   Reply: OK
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
      body = args[at + 5], trace = args[at + 6], since = now, deliveries = 0, again = 0,
    }
    if not old then
      queue_count(q, item.tenant, 1)
      queue_wait(q, id, item, now)
      wakes = wakes or item.due <= now
    elseif old.state == 'delayed' and old.tenant == item.tenant and item.due < old.due then
      redis.call('ZREM', q.delayed, id)
      old.due, old.since = item.due, now
      queue_wait(q, id, old, now)
      wakes = wakes or item.due <= now
    elseif old.state == 'claimed' and old.tenant == item.tenant then
      item.state, item.place, item.deliveries, item.again = old.state, old.place, old.deliveries, 1
      queue_save(q, id, item)
    end
  end
  if wakes or (queue_soonest(q) or math.huge) < soonest then
    queue_wake(q)
  end
  return redis.status_reply('OK')
end

-- Takes what was claimed and not heard of for too long. The consumers that are gone are forgotten on the way.
local function queue_take_over(q, consumer, limit, idle, found)
  for _, entry in ipairs(redis.call('XPENDING', q.claimed, QUEUE_GROUP, 'IDLE', idle, '-', '+', limit)) do
    local ticket = entry[1]
    local taken = redis.call('XCLAIM', q.claimed, QUEUE_GROUP, consumer, 0, ticket)[1]
    local id = taken and taken[2][2]
    local item = id and queue_load(q, id)
    if item and item.place == ticket then
      item.deliveries = item.deliveries + 1
      queue_save(q, id, item)
      found[#found + 1] = {id, item}
    else
      queue_let_go(q, ticket)
      if id and not item then
        queue_bury(q, id)
      end
    end
  end
  for _, known in ipairs(redis.call('XINFO', 'CONSUMERS', q.claimed, QUEUE_GROUP)) do
    if known[2] ~= consumer and known[4] == 0 and known[6] > 20 * idle then
      redis.call('XGROUP', 'DELCONSUMER', q.claimed, QUEUE_GROUP, known[2])
    end
  end
end

-- Takes what waits, each time of the tenant whose turn it is.
local function queue_take(q, limit, found)
  local taken = 0
  while #found < limit do
    local tenant = redis.call('ZRANGE', q.turns, 0, 0)[1]
    if not tenant then
      break
    end
    local prefix = queue_prefix(tenant)
    local member = redis.call('ZRANGEBYLEX', q.waiting, '[' .. prefix .. '0', '(' .. prefix .. ':', 'LIMIT', 0, 1)[1]
    if not member then
      redis.call('ZREM', q.turns, tenant)
    else
      local id = string.sub(member, #prefix + 20)
      local item = queue_load(q, id)
      redis.call('ZREM', q.waiting, member)
      redis.call('ZREM', q.since, id)
      if item then
        redis.call('ZINCRBY', q.turns, 1 / tonumber(item.weight), tenant)
        item.state, item.deliveries = 'claimed', item.deliveries + 1
        item.place = redis.call('XADD', q.claimed, '*', 'i', id)
        queue_save(q, id, item)
        found[#found + 1] = {id, item}
        taken = taken + 1
      else
        queue_bury(q, id, tenant)
      end
    end
  end
  return taken
end

-- queue_claim: claims items.
-- ARGV consumer limit idle_ms   idle_ms: what was claimed and not heard of for so long is taken too; 0: is left alone
-- Reply: {next_ms, wake, {id tenant priority weight due_ms body deliveries ticket trace} ...}
--   next_ms: after so long an item is due; -1: none waits to be    wake: the last entry of that stream
local function queue_claim(keys, args)
  local q, limit, idle, now, found = queue_keys(keys), tonumber(args[2]), tonumber(args[3]), now_ms(), {}
  if redis.call('EXISTS', q.claimed) == 0 then
    redis.call('XGROUP', 'CREATE', q.claimed, QUEUE_GROUP, '$', 'MKSTREAM')
  end
  if idle > 0 then
    queue_take_over(q, args[1], limit, idle, found)
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', q.delayed, '-inf', text(now), 'LIMIT', 0, QUEUE_PROMOTED)) do
    redis.call('ZREM', q.delayed, id)
    local item = queue_load(q, id)
    if item then
      item.since = item.due
      queue_wait(q, id, item, now)
    else
      queue_bury(q, id)
    end
  end
  local taken = queue_take(q, limit, found)
  if taken > 0 then
    redis.call('XREADGROUP', 'GROUP', QUEUE_GROUP, args[1], 'COUNT', taken, 'STREAMS', q.claimed, '>')
  end
  local soonest = queue_soonest(q)
  local newest = redis.call('XREVRANGE', q.wake, '+', '-', 'COUNT', 1)[1]
  local reply = {soonest and math.max(soonest - now, 0) or -1, newest and newest[1] or '0-0'}
  for i, each in ipairs(found) do
    local id, item = each[1], each[2]
    reply[i + 2] = {
      id, item.tenant, item.priority, item.weight, text(item.due), item.body, item.deliveries, item.place,
      item.trace or '',
    }
  end
  return reply
end

-- queue_extend: a worker is still at it.
-- ARGV id ticket deliveries consumer   Reply: 1, or 0 when the claim is no longer its own
local function queue_extend(keys, args)
  local q = queue_keys(keys)
  if not queue_held(q, args) then
    return 0
  end
  redis.call('XCLAIM', q.claimed, QUEUE_GROUP, args[4], 0, args[2], 'JUSTID')
  return 1
end

-- queue_end: a worker has no more to do with it.
-- ARGV id ticket deliveries delay_ms counts
--   delay_ms: it waits again, due after so long; -1: it is done; -2: it is, for nobody can read it
--   counts: 0: this was none of its deliveries
-- Reply: 1, or 0 when the claim is no longer its own
local function queue_end(keys, args)
  local q, delay = queue_keys(keys), tonumber(args[4])
  local item = queue_held(q, args)
  if not item then
    return 0
  end
  queue_let_go(q, args[2])
  if item.again == 0 and delay == -2 then
    queue_bury(q, args[1], item.tenant)
    return 1
  end
  if item.again == 0 and delay == -1 then
    redis.call('HDEL', q.items, args[1])
    queue_count(q, item.tenant, -1)
    return 1
  end
  local now = now_ms()
  if item.again == 1 then
    item.again, item.deliveries = 0, 0
  else
    item.due, item.deliveries = now + delay, item.deliveries - (1 - tonumber(args[5]))
  end
  item.since = now
  queue_wait(q, args[1], item, now)
  queue_wake(q)
  return 1
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
  redis.call('ZREM', q.delayed, id)
  redis.call('ZREM', q.since, id)
  redis.call('ZREM', q.waiting, item.place)
  redis.call('HDEL', q.items, id)
  queue_count(q, item.tenant, -1)
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
redis.register_function('queue_claim_VERSION', queue_claim)
redis.register_function('queue_extend_VERSION', queue_extend)
redis.register_function('queue_end_VERSION', queue_end)
redis.register_function('queue_remove_VERSION', queue_remove)
redis.register_function{function_name = 'queue_stats_VERSION', callback = queue_stats, flags = {'no-writes'}}
