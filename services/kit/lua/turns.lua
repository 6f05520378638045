-- Turns: one at a time in a session, the others in its line.

-- Drops the requests whose time is over, at most 100 of them: each turn adds only one.
local function forget_requests(requests, times, now)
  local over = redis.call('ZRANGEBYSCORE', times, '-inf', text(now), 'LIMIT', 0, 100)
  if #over > 0 then
    redis.call('HDEL', requests, unpack(over))
    redis.call('ZREM', times, unpack(over))
  end
end

local function remember_request(requests, times, request, entry, now, ttl_ms)
  if request ~= '' then
    redis.call('HSET', requests, request, entry)
    redis.call('ZADD', times, text(now + tonumber(ttl_ms)), request)
    redis.call('PEXPIRE', requests, ttl_ms)
    redis.call('PEXPIRE', times, ttl_ms)
  end
end

-- Gives the session to a run with what is reserved for it, and takes the lease under a new token, which is returned.
local function take_session(session, lease, run, lease_ms, reservation)
  local token = redis.call('HINCRBY', session, 'token', 1)
  redis.call('HSET', session, 'current', run, 'reservation', reservation)
  redis.call('SET', lease, token, 'PX', lease_ms)
  return token
end

-- turn_begin: numbers a run and takes the lease, keeps what was asked, and reads what the agent remembers. While another
-- run has not ended, or when defer says so, the run is put into the line instead.
-- KEYS session lease history requests request_times work line records outbox
-- ARGV owner request_id digest lease_ms max_messages session_ttl_ms request_ttl_ms record
--   concurrency: REJECT ENQUEUE INTERRUPT ROLLBACK    defer 0|1    due_ms: 0 is now    line_cap    reservation
-- Reply: {state, run, token, agent, {newest messages, oldest first}, position, {left of its budget}, {outbox}}
--   state 0: it has begun; 1: the same request began it before; 2: it stands in the line, behind `position` others
--   left: four amounts; none when nothing is limited    outbox: fields and values; only of a run that has begun
-- SESSION_NOT_FOUND; REQUEST_ID_REUSED; SESSION_BUSY; LINE_FULL; BUDGET_EXHAUSTED
local function turn_begin(keys, args)
  local session, lease, history, requests, times, work, line, records, outbox = unpack(keys)
  local request, record, concurrency = args[2], args[8], args[9]
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
    return {1, tonumber(run), 0, '', {}, 0, {}, {}}
  end
  local held_ms = redis.call('PTTL', lease)
  local ahead = redis.call('ZCOUNT', line, '-inf', text(now))
  local taken = held_ms > 0 or redis.call('EXISTS', work) == 1
  local waits = taken or ahead > 0 or args[10] == '1'
  if (taken or ahead > 0) and (concurrency == 'REJECT' or record == '') then
    return refuse('SESSION_BUSY', math.max(held_ms, TAKEOVER_MS))
  end
  if waits and redis.call('ZCARD', line) >= tonumber(args[12]) then
    return refuse('LINE_FULL', TAKEOVER_MS)
  end
  local left, gone = left_of_session(session)
  if gone and not waits then
    return refuse('BUDGET_EXHAUSTED')
  end
  local run = redis.call('HINCRBY', session, 'runs', 1)
  local due = math.max(now, tonumber(args[11]))
  local kept_ms = text(tonumber(args[6]) + due - now)
  local agent = redis.call('HGET', session, 'agent')
  redis.call('HSET', session, 'updated', text(now))
  redis.call('PEXPIRE', session, kept_ms, 'GT')
  redis.call('PEXPIREAT', history, redis.call('PEXPIRETIME', session))
  remember_request(requests, times, request, run .. ':' .. args[3], now, args[7])
  if waits then
    if taken and concurrency ~= 'ENQUEUE' and due <= now then
      local how = concurrency == 'ROLLBACK' and ROLL_BACK or STOP
      local current = redis.call('HGET', session, 'current')
      redis.call('HSET', session, 'stopped', current, 'stop', math.max(how, told_to_stop(session, current)))
      tell_stop(session, current)
    end
    redis.call('ZADD', line, text(due), run)
    redis.call('HSET', records, run, record)
    local until_ms = redis.call('PEXPIRETIME', session)
    redis.call('PEXPIREAT', line, until_ms)
    redis.call('PEXPIREAT', records, until_ms)
    return {2, run, 0, agent, {}, ahead + (taken and 1 or 0), left, {}}
  end
  local token = take_session(session, lease, run, args[4], args[13])
  if record ~= '' then
    redis.call('HSET', work, 'record', record)
    redis.call('PEXPIRE', work, kept_ms)
  end
  return {0, run, token, agent, redis.call('LRANGE', history, -tonumber(args[5]), -1), 0, left,
    redis.call('HGETALL', outbox)}
end

-- turn_undo: takes a beginning back that logged nothing, since its run may not spend anything.
-- KEYS session lease requests request_times work log line   ARGV owner run token request_id
-- Reply: 1; 0: it cannot be, since another waits in the line for this one to end
-- SESSION_NOT_FOUND; LEASE_LOST: the token is not the session's latest, or the run has logged something
local function turn_undo(keys, args)
  local session, lease, requests, times, work, log, line = unpack(keys)
  if not owns(session, args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  if not may_write(session, args[2], args[3]) or redis.call('EXISTS', log) == 1 then
    return refuse('LEASE_LOST')
  end
  if next_in_line(line) then
    return 0
  end
  redis.call('HSET', session, 'current', 0, 'reservation', '')
  redis.call('UNLINK', lease, work)
  redis.call('HDEL', requests, args[4])
  redis.call('ZREM', times, args[4])
  return 1
end

-- Why the session's unfinished run cannot be gone on with now; nil: it can.
local function not_ready(session, work, wanted)
  local current = redis.call('HGET', session, 'current')
  if wanted ~= '0' and wanted ~= current then
    return 'SESSION_BUSY'
  end
  local found = redis.call('HMGET', work, 'waiting', 'until')
  if not found[1] or told_to_stop(session, current) > 0 then
    return nil
  end
  local left_ms = tonumber(found[2]) - now_ms()
  if left_ms > 0 then
    local soon = found[1] == 'again' or left_ms < MINUTE_MS
    return soon and 'SESSION_BUSY' or 'RUN_NOT_FOUND', left_ms
  end
end

-- turn_resume: goes on in a session: takes the lease, under a new token, and all that is needed to go on with its
-- unfinished run; or, when it has none, with the run of its line that is due next.
-- KEYS session lease history work line records outbox
-- ARGV owner lease_ms max_messages session_ttl_ms run, 0 for any    reservation
-- Reply: {run, token, agent, record, checkpoint, attempts, response, {newest messages, oldest first},
--   {left of its budget}, {outbox}, the reservation before, {four amounts of its spending that are counted already}}
--   attempts: how often an owner was lost; left, outbox: as turn_begin; what is not there is empty
-- SESSION_NOT_FOUND; RUN_NOT_FOUND: there is nothing to go on with; SESSION_BUSY: not now. It says when to ask again,
-- unless that run is due and another is before it: whoever ends the other goes on with it
local function turn_resume(keys, args)
  local session, lease, history, work, line, records, outbox = unpack(keys)
  if not owns(session, args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  if args[5] ~= '0' and standing(session, line, args[5]) == 'over' then
    return refuse('RUN_NOT_FOUND')
  end
  local early_ms = tonumber(redis.call('ZSCORE', line, args[5]) or 0) - now_ms()
  if early_ms > 0 then
    return refuse('SESSION_BUSY', early_ms)
  end
  local held_ms = redis.call('PTTL', lease)
  if held_ms > 0 then
    return refuse('SESSION_BUSY', args[5] == '0' and held_ms)
  end
  local run
  if redis.call('EXISTS', work) == 1 then
    local reason, retry_ms = not_ready(session, work, args[5])
    if reason then
      return refuse(reason, retry_ms)
    end
    run = redis.call('HGET', session, 'current')
    if redis.call('HDEL', work, 'waiting', 'answered', 'handed') == 0 then
      redis.call('HINCRBY', work, 'attempts', 1)
    end
  else
    run = next_in_line(line)
    if not run or args[5] ~= '0' and args[5] ~= run then
      return refuse(args[5] == '0' and 'RUN_NOT_FOUND' or 'SESSION_BUSY')
    end
    redis.call('HSET', work, 'record', redis.call('HGET', records, run), 'attempts', 0)
    redis.call('PEXPIRE', work, args[4])
    redis.call('ZREM', line, run)
    redis.call('HDEL', records, run)
  end
  local before = redis.call('HMGET', session, 'reservation', 'settled')
  local token = take_session(session, lease, run, args[2], args[6])
  local left = left_of_session(session)
  local found = redis.call('HMGET', work, 'record', 'checkpoint', 'attempts', 'response')
  return {tonumber(run), token, redis.call('HGET', session, 'agent'), found[1] or '', found[2] or '',
    tonumber(found[3] or 0), found[4] or '', redis.call('LRANGE', history, -tonumber(args[3]), -1), left,
    redis.call('HGETALL', outbox), before[1] or '', counted_before(before[2])}
end

-- turn_reserved: reads what is reserved for a run.
-- KEYS session   ARGV owner run token
-- Reply: {the reservation, or empty, {left of the session's budget}, {four amounts of its spending counted already}}
-- SESSION_NOT_FOUND; LEASE_LOST: the token is not the session's latest
local function turn_reserved(keys, args)
  local session = keys[1]
  if not owns(session, args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  if not may_write(session, args[2], args[3]) then
    return refuse('LEASE_LOST')
  end
  local found, left = redis.call('HMGET', session, 'reservation', 'settled'), left_of_session(session)
  return {found[1] or '', left, counted_before(found[2])}
end

-- turn_end: ends a run: appends the last events to its log and the messages, if any, to the history, counts what it has
-- spent, and frees the session.
-- KEYS session lease history log work line records outbox
-- ARGV owner run token first_sequence session_ttl_ms log_ttl_ms history_cap spent amounts (4)
--   event_count event ... [message ...]
-- Reply: {what is to be settled in other tags, or empty, run, record}; the run is the one due next; there may be none.
-- Events that are in the log already are passed over. Repeated with the same last event it changes nothing, also when
-- later runs have begun.
-- SESSION_NOT_FOUND; LEASE_LOST: the token is not the session's latest, the run ended otherwise, or the log has another
-- event of that sequence; ABORTED: first_sequence leaves a hole
local function turn_end(keys, args)
  local session, lease, history, log, work, line, records, outbox = unpack(keys)
  local run, first, count = args[2], tonumber(args[4]), tonumber(args[12])
  if not owns(session, args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  local newest = last_event(log)
  if not may_write(session, run, args[3]) then
    local ended = redis.call('HGET', session, 'current') ~= run
    if ended and newest == first + count - 1 and event_of(log, newest) == args[12 + count] then
      return {redis.call('HGET', outbox, 'settle:' .. run) or '', unpack(next_run(work, line, records))}
    end
    return refuse('LEASE_LOST')
  end
  local reason = write_events(log, newest, first, count, args, 12)
  if reason then
    return refuse(reason)
  end
  redis.call('PEXPIRE', log, args[6])
  redis.call('PEXPIRE', session, args[5], 'GT')
  if #args > 12 + count then
    redis.call('RPUSH', history, unpack(args, 13 + count))
    redis.call('LTRIM', history, -tonumber(args[7]), -1)
    redis.call('PEXPIREAT', history, redis.call('PEXPIRETIME', session))
  end
  local unsettled = close_account(session, outbox, run, args, 7, args[5])
  redis.call('UNLINK', lease, work)
  tell(session, run)
  return {unsettled, unpack(next_run(work, line, records))}
end

redis.register_function('turn_begin_VERSION', turn_begin)
redis.register_function('turn_undo_VERSION', turn_undo)
redis.register_function('turn_resume_VERSION', turn_resume)
redis.register_function{function_name = 'turn_reserved_VERSION', callback = turn_reserved, flags = {'no-writes'}}
redis.register_function('turn_end_VERSION', turn_end)
