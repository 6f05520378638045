-- Sessions, and their index in their user's tag.

-- session_add: puts a session into its user's index, and remembers which request made it.
-- KEYS sessions [created]   ARGV session_id digest index_ttl_ms request_ttl_ms
-- Reply: the session's id: the one given, or the one that the same request made before.
-- REQUEST_ID_REUSED: the request came before with another digest.
local function session_add(keys, args)
  local id = args[1]
  if keys[2] then
    local seen = redis.call('HMGET', keys[2], 'session', 'digest')
    if seen[1] then
      if seen[2] ~= args[2] then
        return refuse('REQUEST_ID_REUSED')
      end
      id = seen[1]
    else
      redis.call('HSET', keys[2], 'session', id, 'digest', args[2])
      redis.call('PEXPIRE', keys[2], args[4])
    end
  end
  redis.call('ZADD', keys[1], 'NX', text(now_ms()), id)
  redis.call('PEXPIRE', keys[1], args[3])
  return id
end

-- Keeps in which session a request begins a run: of one user, the same request is of one session. Returns 1; 0: it is
-- kept already; nil: it came before, for another session.
local function claim(begun, session_id, ttl_ms)
  local kept = redis.call('SET', begun, session_id, 'NX', 'GET', 'PX', ttl_ms)
  if kept and kept ~= session_id then
    return nil
  end
  return kept and 0 or 1
end

-- session_touch: moves a session to the front of its user's index if it is there; drops those long expired.
-- KEYS sessions [begun]   ARGV session_id index_ttl_ms request_ttl_ms   begun: of the request that begins a run there
-- Reply: 1: the request came for the first time; 0
-- REQUEST_ID_REUSED: it came before, for another session
local function session_touch(keys, args)
  local now, new = now_ms(), 0
  if keys[2] then
    new = claim(keys[2], args[1], args[3])
  end
  if not new then
    return refuse('REQUEST_ID_REUSED')
  end
  redis.call('ZADD', keys[1], 'XX', text(now), args[1])
  redis.call('PEXPIRE', keys[1], args[2])
  redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', '(' .. text(now - tonumber(args[2]) - HOUR_MS))
  return new
end

-- session_drop: takes sessions that are gone out of their user's index, but for those of the last minute: one that is
-- being made is in the index first.
-- KEYS sessions   ARGV session_id ...
-- Reply: OK
local function session_drop(keys, args)
  local young = now_ms() - MINUTE_MS
  for _, id in ipairs(args) do
    local used = redis.call('ZSCORE', keys[1], id)
    if used and tonumber(used) < young then
      redis.call('ZREM', keys[1], id)
    end
  end
  return redis.status_reply('OK')
end

-- session_create: makes a session, or leaves the one that is there.
-- KEYS session   ARGV owner agent request_id ttl_ms
-- Reply: {agent, created, updated, runs, expires}
-- SESSION_NOT_FOUND: it is there and another's.
local function session_create(keys, args)
  local owner = redis.call('HGET', keys[1], 'owner')
  if owner and owner ~= args[1] then
    return refuse('SESSION_NOT_FOUND')
  end
  if not owner then
    local now = text(now_ms())
    redis.call('HSET', keys[1], 'owner', args[1], 'agent', args[2], 'request', args[3],
      'created', now, 'updated', now, 'runs', 0, 'current', 0, 'token', 0)
    redis.call('PEXPIRE', keys[1], args[4])
  end
  return describe(keys[1])
end

-- session_get: reads a session.
-- KEYS session   ARGV owner
-- Reply: {agent, created, updated, runs, expires}
-- SESSION_NOT_FOUND
local function session_get(keys, args)
  if not owns(keys[1], args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  return describe(keys[1])
end

-- session_history: reads the newest messages of a session.
-- KEYS session history   ARGV owner max_messages
-- Reply: the messages, oldest first
-- SESSION_NOT_FOUND
local function session_history(keys, args)
  if not owns(keys[1], args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  return redis.call('LRANGE', keys[2], -tonumber(args[2]), -1)
end

-- session_delete: forgets a session. What its runs have keys of their own for is left to the caller: the reply says it.
-- KEYS session lease history requests request_times work line records outbox approvals effects   ARGV owner
-- Reply: {number of the latest run, id of the request that made it, {keys of what tools did}, {ids of requests}}
-- SESSION_NOT_FOUND; SESSION_BUSY: a run of it has not ended
local function session_delete(keys, args)
  if not owns(keys[1], args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  local held_ms = redis.call('PTTL', keys[2])
  if held_ms > 0 or redis.call('EXISTS', keys[6], keys[7]) > 0 then
    return refuse('SESSION_BUSY', math.max(held_ms, TAKEOVER_MS))
  end
  local found = redis.call('HMGET', keys[1], 'runs', 'request')
  local effects, requests = redis.call('ZRANGE', keys[11], 0, -1), redis.call('HKEYS', keys[4])
  redis.call('UNLINK', unpack(keys))
  return {tonumber(found[1]), found[2], effects, requests}
end

redis.register_function('session_add_VERSION', session_add)
redis.register_function('session_touch_VERSION', session_touch)
redis.register_function('session_drop_VERSION', session_drop)
redis.register_function('session_create_VERSION', session_create)
redis.register_function{function_name = 'session_get_VERSION', callback = session_get, flags = {'no-writes'}}
redis.register_function{function_name = 'session_history_VERSION', callback = session_history, flags = {'no-writes'}}
redis.register_function('session_delete_VERSION', session_delete)
