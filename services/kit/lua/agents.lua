-- Agents and their revisions.

-- agent_put: writes an agent; what is there already makes no new revision.
-- KEYS agents agent   ARGV name digest content revisions_kept agents_allowed
-- Reply: {revision, created}
-- RESOURCE_EXHAUSTED: the tenant has as many agents as it may
local function agent_put(keys, args)
  local found = redis.call('HMGET', keys[2], 'latest', 'digest')
  if found[1] and found[2] == args[2] then
    return {tonumber(found[1]), redis.call('HGET', keys[2], 'created:' .. found[1])}
  end
  if not found[1] and redis.call('HLEN', keys[1]) >= tonumber(args[5]) then
    return refuse('RESOURCE_EXHAUSTED')
  end
  local revision, now = tonumber(found[1] or 0) + 1, text(now_ms())
  redis.call('HSET', keys[2], 'latest', revision, 'digest', args[2],
    'created:' .. revision, now, 'content:' .. revision, args[3])
  local oldest = revision - tonumber(args[4])
  redis.call('HDEL', keys[2], 'created:' .. oldest, 'content:' .. oldest)
  redis.call('HSET', keys[1], args[1], revision)
  return {revision, now}
end

-- agent_get: reads one revision of an agent.
-- KEYS agent   ARGV revision, 0 for the latest
-- Reply: {revision, created, content}
-- AGENT_NOT_FOUND
local function agent_get(keys, args)
  local revision = args[1]
  if revision == '0' then
    revision = redis.call('HGET', keys[1], 'latest') or '0'
  end
  local found = redis.call('HMGET', keys[1], 'created:' .. revision, 'content:' .. revision)
  if not found[2] then
    return refuse('AGENT_NOT_FOUND')
  end
  return {tonumber(revision), found[1], found[2]}
end

redis.register_function('agent_put_VERSION', agent_put)
redis.register_function{function_name = 'agent_get_VERSION', callback = agent_get, flags = {'no-writes'}}
