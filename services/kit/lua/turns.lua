-- Turns: one at a time in a session.

-- Drops the requests whose time is over, at most 100 of them: each turn adds only one.
local function forget_requests(requests, times, now)
  local over = redis.call('ZRANGEBYSCORE', times, '-inf', text(now), 'LIMIT', 0, 100)
  if #over > 0 then
    redis.call('HDEL', requests, unpack(over))
    redis.call('ZREM', times, unpack(over))
  end
end

-- turn_begin: takes the lease, numbers the run, keeps what was asked, and reads what the agent remembers.
-- KEYS session lease history requests request_times work
-- ARGV owner request_id digest lease_ms max_messages session_ttl_ms request_ttl_ms record
-- Reply: {attached 0|1, run, token, agent, {newest messages, oldest first}}; attached: nothing was taken, no messages.
-- A run that the same request began, that never logged anything and that nobody holds begins again under a new token.
-- SESSION_NOT_FOUND; REQUEST_ID_REUSED; SESSION_BUSY, also while a run whose owner is gone waits for another
local function turn_begin(keys, args)
  local session, lease, history, requests, times, work = unpack(keys)
  local request = args[2]
  if not owns(session, args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  local now = now_ms()
  forget_requests(requests, times, now)
  local seen = request ~= '' and redis.call('HGET', requests, request)
  if seen then
    local run, digest = string.match(seen, '^(%d+):(.*)$')
    if digest ~= args[3] then
      return refuse('REQUEST_ID_REUSED')
    end
    local found = redis.call('HMGET', session, 'runs', 'ended', 'logged')
    if run ~= found[1] or run == found[2] or run == found[3] or redis.call('PTTL', lease) > 0 then
      return {1, tonumber(run), 0, '', {}}
    end
    -- Nobody learned that this run had begun: it begins now.
    local token = redis.call('HINCRBY', session, 'token', 1)
    redis.call('SET', lease, token, 'PX', args[4])
    return {0, tonumber(run), token, redis.call('HGET', session, 'agent'),
      redis.call('LRANGE', history, -tonumber(args[5]), -1)}
  end
  local held_ms = redis.call('PTTL', lease)
  if held_ms > 0 then
    return refuse('SESSION_BUSY', held_ms)
  end
  if redis.call('EXISTS', work) == 1 then
    return refuse('SESSION_BUSY', TAKEOVER_MS)
  end
  local run = redis.call('HINCRBY', session, 'runs', 1)
  local token = redis.call('HINCRBY', session, 'token', 1)
  redis.call('HSET', session, 'updated', text(now))
  redis.call('SET', lease, token, 'PX', args[4])
  if args[8] ~= '' then
    redis.call('HSET', work, 'record', args[8])
    redis.call('PEXPIRE', work, args[6])
  end
  redis.call('PEXPIRE', session, args[6])
  redis.call('PEXPIRE', history, args[6])
  if request ~= '' then
    redis.call('HSET', requests, request, run .. ':' .. args[3])
    redis.call('ZADD', times, text(now + tonumber(args[7])), request)
    redis.call('PEXPIRE', requests, args[7])
    redis.call('PEXPIRE', times, args[7])
  end
  return {0, run, token, redis.call('HGET', session, 'agent'), redis.call('LRANGE', history, -tonumber(args[5]), -1)}
end

-- turn_resume: takes over a run whose owner is gone: the lease, under a new token, and all that is needed to go on.
-- KEYS session lease history work   ARGV owner lease_ms max_messages
-- Reply: {run, token, agent, record, checkpoint or '', attempts, {newest messages, oldest first}}
-- SESSION_NOT_FOUND; RUN_NOT_FOUND: no run waits for an owner; SESSION_BUSY: it has one
local function turn_resume(keys, args)
  local session, lease, history, work = unpack(keys)
  if not owns(session, args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  local held_ms = redis.call('PTTL', lease)
  if held_ms > 0 then
    return refuse('SESSION_BUSY', held_ms)
  end
  local kept = redis.call('HMGET', work, 'record', 'checkpoint')
  if not kept[1] then
    return refuse('RUN_NOT_FOUND')
  end
  local token = redis.call('HINCRBY', session, 'token', 1)
  redis.call('SET', lease, token, 'PX', args[2])
  local found = redis.call('HMGET', session, 'runs', 'agent')
  return {tonumber(found[1]), token, found[2], kept[1], kept[2] or '', redis.call('HINCRBY', work, 'attempts', 1),
    redis.call('LRANGE', history, -tonumber(args[3]), -1)}
end

-- turn_end: ends a run: appends the last events to its log and the messages, if any, to the history, frees the session.
-- KEYS session lease history log work
-- ARGV owner run token first_sequence session_ttl_ms log_ttl_ms history_cap event_count event ... [message ...]
-- Reply: OK. Events that are in the log already are passed over. Repeated with the same last event it changes nothing,
-- also when later runs have begun.
-- SESSION_NOT_FOUND; LEASE_LOST: the token is not the session's latest, the run ended otherwise, or the log has another
-- event of that sequence; ABORTED: first_sequence leaves a hole
local function turn_end(keys, args)
  local session, lease, history, log, work = unpack(keys)
  local run, first, count = args[2], tonumber(args[4]), tonumber(args[8])
  if not owns(session, args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  local newest, bytes = last_event(log)
  if not may_write(session, run, args[3]) then
    local ended = tonumber(redis.call('HGET', session, 'ended')) >= tonumber(run)
    if ended and newest == first + count - 1 and bytes == args[8 + count] then
      return redis.status_reply('OK')
    end
    return refuse('LEASE_LOST')
  end
  local reason = write_events(log, newest, first, count, args, 8)
  if reason then
    return refuse(reason)
  end
  redis.call('PEXPIRE', log, args[6])
  if #args > 8 + count then
    redis.call('RPUSH', history, unpack(args, 9 + count))
    redis.call('LTRIM', history, -tonumber(args[7]), -1)
    redis.call('PEXPIRE', history, args[5])
  end
  redis.call('HSET', session, 'ended', run)
  redis.call('PEXPIRE', session, args[5])
  redis.call('UNLINK', lease, work)
  return redis.status_reply('OK')
end

redis.register_function('turn_begin_VERSION', turn_begin)
redis.register_function('turn_resume_VERSION', turn_resume)
redis.register_function('turn_end_VERSION', turn_end)
