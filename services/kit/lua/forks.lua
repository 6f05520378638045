-- Sessions that begin where another was.

-- session_past: reads what was said in a session, and how far its runs are.
-- KEYS session history line   ARGV owner
-- Reply: {agent, number of the run accepted last, {those that have not ended}, {messages, oldest first}}
-- SESSION_NOT_FOUND
local function session_past(keys, args)
  if not owns(keys[1], args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  local found = redis.call('HMGET', keys[1], 'agent', 'runs', 'current')
  local unfinished = redis.call('ZRANGE', keys[3], 0, -1)
  if found[3] ~= '0' then
    table.insert(unfinished, found[3])
  end
  return {found[1], tonumber(found[2]), unfinished, redis.call('LRANGE', keys[2], 0, -1)}
end

-- session_fork: makes a session with a history, whole or not at all, or leaves the one that is there.
-- KEYS session history   ARGV owner agent request_id ttl_ms [message ...]
-- Reply: {agent, created, updated, runs, expires}
-- SESSION_NOT_FOUND: it is there and another's.
local function session_fork(keys, args)
  if redis.call('EXISTS', keys[1]) == 0 then
    redis.call('UNLINK', keys[2])
    for first = 5, #args, 1000 do
      redis.call('RPUSH', keys[2], unpack(args, first, math.min(first + 999, #args)))
    end
    redis.call('PEXPIRE', keys[2], args[4])
  end
  return session_create(keys, args)
end

redis.register_function{function_name = 'session_past_VERSION', callback = session_past, flags = {'no-writes'}}
redis.register_function('session_fork_VERSION', session_fork)
