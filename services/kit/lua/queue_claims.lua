-- What workers claim of a queue, and what becomes of it. KEYS and records are those of queue.lua.

local QUEUE_GROUP, QUEUE_PROMOTED = 'workers', 500

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

-- Takes what was claimed and not heard of for too long. The consumers that are gone are forgotten on the way.
local function queue_take_over(q, consumer, limit, idle, most_dead, found)
  for _, entry in ipairs(redis.call('XPENDING', q.claimed, QUEUE_GROUP, 'IDLE', idle, '-', '+', limit)) do
    local ticket = entry[1]
    local taken = redis.call('XCLAIM', q.claimed, QUEUE_GROUP, consumer, 0, ticket)[1]
    local id, tenant = taken and taken[2][2], taken and taken[2][4]
    local item = id and queue_load(q, id)
    if item and item.place == ticket then
      item.deliveries = item.deliveries + 1
      queue_save(q, id, item)
      found[#found + 1] = {id, item}
    else
      queue_let_go(q, ticket)
      if id and not item then
        queue_bury(q, id, tenant, most_dead)
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
local function queue_take(q, limit, most_dead, found)
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
        item.place = redis.call('XADD', q.claimed, '*', 'i', id, 't', tenant)
        queue_save(q, id, item)
        found[#found + 1] = {id, item}
        taken = taken + 1
      else
        queue_bury(q, id, tenant, most_dead)
      end
    end
  end
  return taken
end

-- queue_claim: claims items.
-- ARGV consumer limit idle_ms most_dead
--   idle_ms: what was claimed and not heard of for so long is taken too; 0: is left alone
--   most_dead: of what cannot be read so many are kept
-- Reply: {next_ms, wake, {id tenant priority weight due_ms body deliveries ticket trace} ...}
--   next_ms: after so long an item is due; -1: none waits to be    wake: the last entry of that stream
local function queue_claim(keys, args)
  local q, limit, idle, now, found = queue_keys(keys), tonumber(args[2]), tonumber(args[3]), now_ms(), {}
  local most_dead = tonumber(args[4])
  if redis.call('EXISTS', q.claimed) == 0 then
    redis.call('XGROUP', 'CREATE', q.claimed, QUEUE_GROUP, '$', 'MKSTREAM')
  end
  if idle > 0 then
    queue_take_over(q, args[1], limit, idle, most_dead, found)
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', q.delayed, '-inf', text(now), 'LIMIT', 0, QUEUE_PROMOTED)) do
    redis.call('ZREM', q.delayed, member)
    local tenant, id = queue_read_delayed(member)
    local item = queue_load(q, id)
    if item then
      item.since = item.due
      queue_wait(q, id, item, now)
    else
      queue_bury(q, id, tenant, most_dead)
    end
  end
  local taken = queue_take(q, limit, most_dead, found)
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
-- ARGV id ticket deliveries delay_ms counts most_dead
--   delay_ms: it waits again, due after so long; -1: it is done; -2: it is, for nobody can read it
--   counts: 0: this was none of its deliveries    most_dead: as queue_claim
-- Reply: 1, or 0 when the claim is no longer its own
local function queue_end(keys, args)
  local q, delay = queue_keys(keys), tonumber(args[4])
  local item = queue_held(q, args)
  if not item then
    return 0
  end
  queue_let_go(q, args[2])
  if item.again == 0 and delay == -2 then
    queue_bury(q, args[1], not item.free and item.tenant, tonumber(args[6]))
    return 1
  end
  if item.again == 0 and delay == -1 then
    redis.call('HDEL', q.items, args[1])
    queue_count(q, item, -1)
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

redis.register_function('queue_claim_VERSION', queue_claim)
redis.register_function('queue_extend_VERSION', queue_extend)
redis.register_function('queue_end_VERSION', queue_end)
