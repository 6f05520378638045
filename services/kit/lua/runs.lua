-- The log of a run, and what a run waits for.

local APPROVALS_TRIED, APPROVAL_KEPT_MS = 20, 10 * MINUTE_MS

-- Whether the session has a run of this number and belongs to this owner.
local function has_run(session, owner, run)
  local found = redis.call('HMGET', session, 'owner', 'runs')
  local number = tonumber(run)
  return found[1] == owner and number >= 1 and number <= tonumber(found[2])
end

-- run_append: appends events to the log of a run, and holds the session further.
-- KEYS session lease log work   ARGV run token first_sequence log_ttl_ms lease_ms checkpoint [event ...]
--   lease_ms: how long the session is held from now on; 0: as before; -1: no longer, for another owner to go on.
--   No event: only that, and the reply.
--   checkpoint: how far the owner has come with these events; empty: as before.
-- Reply: 0; when the run was told to stop 1; when it was told to leave no trace 2. Events that are in the log already
-- change nothing.
-- LEASE_LOST: the token is not the session's latest, the run has ended, or the log has another event of that sequence;
-- ABORTED: first_sequence leaves a hole
local function run_append(keys, args)
  local session, lease, log, work = unpack(keys)
  local first, count = tonumber(args[3]), #args - 6
  local may, stop = may_write(session, args[1], args[2])
  if not may then
    return refuse('LEASE_LOST')
  end
  if count > 0 then
    local reason = write_events(log, last_event(log), first, count, args, 6)
    if reason then
      return refuse(reason)
    end
    redis.call('PEXPIRE', log, args[4])
    tell(session, args[1])
  end
  if args[6] ~= '' then
    redis.call('HSET', work, 'checkpoint', args[6])
    redis.call('HDEL', work, 'response')
  end
  if args[5] == '-1' then
    redis.call('UNLINK', lease)
    if redis.call('EXISTS', work) == 1 then
      redis.call('HSET', work, 'handed', 1)
    end
  elseif args[5] ~= '0' then
    redis.call('SET', lease, args[2], 'PX', args[5])
  end
  return stop
end

-- Forgets approvals that expired a while ago, of some that are taken by chance: each wait adds only one. Whoever answers
-- again, not having been told that the answer was taken, does so soon.
local function forget_approvals(approvals)
  local found = redis.call('HRANDFIELD', approvals, APPROVALS_TRIED, 'WITHVALUES')
  for i = 1, #found, 2 do
    if cjson.decode(found[i + 1]).expires_ms + APPROVAL_KEPT_MS < now_ms() then
      redis.call('HDEL', approvals, found[i])
    end
  end
end

-- run_park: appends events to the log of a run and lets it wait, holding the session but no owner. What it has spent is
-- counted, and nothing is reserved for it while it waits.
-- KEYS session lease log work approvals outbox
-- ARGV run token first_sequence log_ttl_ms checkpoint waiting wait_ms wake approval approval_entry spent amounts (4)
--   [event ...]
--   waiting: `answer`, `tool:<call>`, or `again`    wait_ms: after that it waits no more    wake: kept for whoever wakes it
--   approval: SHA-256 of the token whose holder may answer, and what it is good for; empty: nobody may. When it expires
--   is written into it here: with the wait
-- Reply: 0; when the run was told to stop, and does not wait then, as run_append
-- LEASE_LOST; ABORTED
local function run_park(keys, args)
  local session, lease, log, work, approvals, outbox = unpack(keys)
  local may, stop = may_write(session, args[1], args[2])
  if not may then
    return refuse('LEASE_LOST')
  end
  if stop > 0 then
    return stop
  end
  local reason = write_events(log, last_event(log), tonumber(args[3]), #args - 14, args, 14)
  if reason then
    return refuse(reason)
  end
  local kept_ms = text(tonumber(args[4]) + tonumber(args[7])) -- what it wrote outlives what it waits for
  redis.call('PEXPIRE', log, kept_ms)
  if args[6] ~= 'again' then -- else it may have its answer, and only waits for who is to go on with it
    redis.call('HDEL', work, 'response')
  end
  redis.call('HSET', work, 'checkpoint', args[5], 'waiting', args[6], 'until', text(now_ms() + tonumber(args[7])),
    'wake', args[8])
  if args[9] ~= '' then
    forget_approvals(approvals)
    local good_for = cjson.decode(args[10])
    good_for.expires_ms = now_ms() + tonumber(args[7])
    redis.call('HSET', approvals, args[9], cjson.encode(good_for))
    redis.call('PEXPIRE', approvals, kept_ms)
  end
  suspend_account(session, outbox, args[1], args, 10)
  redis.call('HINCRBY', session, 'token', 1) -- nobody holds it any more, also not whoever did
  redis.call('UNLINK', lease)
  tell(session, args[1])
  return 0
end

-- run_respond: gives a run the answer it waits for, if the approval is good for it. The same answer again changes nothing:
-- whoever gave it may not have been told that it was taken.
-- KEYS session work approvals
-- ARGV owner, empty for whoever may approve all, run approval verdict response answer
--   verdict: `approved`, `denied`, or `answered`: with the result of a tool that the client runs; what the approval
--   becomes        answer: digest of the answer and of who gives it
-- Reply: the session's owner, and what remained of the run's budgets as the approval has it
-- RUN_NOT_FOUND; APPROVAL_INVALID: it is not this run's, was used for another answer or has expired; RUN_NOT_WAITING
local function run_respond(keys, args)
  local session, work, approvals = unpack(keys)
  local owner = redis.call('HGET', session, 'owner')
  if not owner or not has_run(session, args[1] == '' and owner or args[1], args[2]) then
    return refuse('RUN_NOT_FOUND')
  end
  local entry = redis.call('HGET', approvals, args[3])
  local approval = entry and cjson.decode(entry)
  if not approval or text(approval.run) ~= args[2] then
    return refuse('APPROVAL_INVALID')
  end
  local found = { owner, approval.remaining or '' }
  if approval.answer == args[6] then
    return found
  end
  if approval.state ~= 'open' or approval.expires_ms < now_ms() then
    return refuse('APPROVAL_INVALID')
  end
  local current, waiting = redis.call('HGET', session, 'current'), redis.call('HGET', work, 'waiting')
  if current ~= args[2] or waiting ~= 'answer' then
    return refuse('RUN_NOT_WAITING')
  end
  if args[4] ~= 'denied' and (args[4] == 'answered') ~= (approval.client == true) then
    return refuse('APPROVAL_INVALID')
  end
  approval.state, approval.answer = args[4], args[6]
  redis.call('HSET', approvals, args[3], cjson.encode(approval))
  redis.call('HSET', work, 'response', args[5], 'answered', 1)
  redis.call('HDEL', work, 'waiting')
  tell(session, current)
  return found
end

-- run_wake: gives a run the result of the tool it waits for.
-- KEYS session work line   ARGV run call response
-- Reply: where to put the run; again while nobody has gone on with it, so that who asks may die before it has put it
-- RUN_NOT_FOUND: it is over; RUN_NOT_WAITING: it does not wait for that call
local function run_wake(keys, args)
  local session, work, line = unpack(keys)
  if standing(session, line, args[1]) == 'over' then
    return refuse('RUN_NOT_FOUND')
  end
  local found = redis.call('HMGET', work, 'waiting', 'wake', 'woken', 'answered')
  local call = 'tool:' .. args[2]
  if redis.call('HGET', session, 'current') ~= args[1] or (found[1] or found[4] and found[3]) ~= call then
    return refuse('RUN_NOT_WAITING')
  end
  redis.call('HSET', work, 'response', args[3], 'answered', 1, 'woken', call)
  redis.call('HDEL', work, 'waiting')
  tell(session, args[1])
  return found[2] or ''
end

-- run_cancel: tells a run to stop: run_append says so from now on.
-- KEYS session lease line   ARGV owner run
-- Reply: 0: it has ended; 1: it was told; 2: it was told, but nobody works on it; 3: it stands in the line
-- RUN_NOT_FOUND
local function run_cancel(keys, args)
  local session, lease, line = unpack(keys)
  if not has_run(session, args[1], args[2]) then
    return refuse('RUN_NOT_FOUND')
  end
  local place = standing(session, line, args[2])
  if place ~= 'current' then
    return place == 'line' and 3 or 0
  end
  if told_to_stop(session, args[2]) == 0 then
    redis.call('HSET', session, 'stopped', args[2], 'stop', STOP)
  end
  tell_stop(session, args[2])
  return redis.call('EXISTS', lease) == 1 and 1 or 2
end

-- run_announce: begins the log of a run that stands in the line.
-- KEYS session log line   ARGV owner run log_ttl_ms event ...
-- Reply: 1; 0: it has begun meanwhile, or its log has
-- RUN_NOT_FOUND
local function run_announce(keys, args)
  local session, log, line = unpack(keys)
  if not has_run(session, args[1], args[2]) then
    return refuse('RUN_NOT_FOUND')
  end
  if standing(session, line, args[2]) ~= 'line' or redis.call('EXISTS', log) == 1 then
    return 0
  end
  write_events(log, 0, 1, #args - 3, args, 3)
  redis.call('PEXPIREAT', log, redis.call('PEXPIRETIME', session))
  tell(session, args[2])
  return 1
end

-- Takes a run out of the line. Returns its record, when it was due, and the run that is due next with its record, if
-- there is one.
local function leave_line(session, line, records, work, run)
  local record, due = redis.call('HGET', records, run) or '', redis.call('ZSCORE', line, run)
  redis.call('ZREM', line, run)
  redis.call('HDEL', records, run)
  tell(session, run)
  return {record, due, unpack(next_run(work, line, records))}
end

-- run_drop: ends a run that stands in the line, and takes it out.
-- KEYS session log line records work   ARGV owner run log_ttl_ms first_sequence event ...
-- Reply: {its record, when it was due, run, record}, the run that is due next, if there is one; {}: it has begun
-- meanwhile, or ended
-- RUN_NOT_FOUND; ABORTED: first_sequence leaves a hole; LEASE_LOST: the log has another event of that sequence
local function run_drop(keys, args)
  local session, log, line, records, work = unpack(keys)
  if not has_run(session, args[1], args[2]) then
    return refuse('RUN_NOT_FOUND')
  end
  if standing(session, line, args[2]) ~= 'line' then
    return {}
  end
  local reason = write_events(log, last_event(log), tonumber(args[4]), #args - 4, args, 4)
  if reason then
    return refuse(reason)
  end
  redis.call('PEXPIRE', log, args[3])
  return leave_line(session, line, records, work, args[2])
end

-- run_undo: takes back a run that stands in the line and whose log has not begun, as if it had never been asked for;
-- but its number is used.
-- KEYS session log line records work requests request_times callback   ARGV owner run request_id
-- Reply: as run_drop; {} also when its log has begun
-- RUN_NOT_FOUND
local function run_undo(keys, args)
  local session, log, line, records, work, requests, times, callback = unpack(keys)
  if not has_run(session, args[1], args[2]) then
    return refuse('RUN_NOT_FOUND')
  end
  if standing(session, line, args[2]) ~= 'line' or redis.call('EXISTS', log) == 1 then
    return {}
  end
  redis.call('UNLINK', callback)
  redis.call('HDEL', requests, args[3])
  redis.call('ZREM', times, args[3])
  return leave_line(session, line, records, work, args[2])
end

-- line_later: reads which runs of the line are not due yet.
-- KEYS session line records   ARGV owner
-- Reply: {run, when it is due, its record, ...}
-- SESSION_NOT_FOUND
local function line_later(keys, args)
  if not owns(keys[1], args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  local found = {}
  for i, value in ipairs(redis.call('ZRANGEBYSCORE', keys[2], '(' .. text(now_ms()), '+inf', 'WITHSCORES')) do
    found[#found + 1] = value
    if i % 2 == 0 then
      found[#found + 1] = redis.call('HGET', keys[3], found[#found - 1]) or ''
    end
  end
  return found
end

-- How a run stands that is not over.
local function place_of(lease, work, place)
  if place == 'line' then
    return 'QUEUED'
  end
  local waiting = redis.call('HGET', work, 'waiting')
  if waiting then
    return waiting == 'again' and 'QUEUED' or 'WAITING'
  end
  return redis.call('EXISTS', lease, work) > 0 and 'AT_WORK' or 'LOST'
end

-- run_read: reads a run's log from a cursor on.
-- KEYS session lease log work line   ARGV owner run after_sequence max_events
-- Reply: {standing, {events, the first with sequence after_sequence + 1}}
--   standing: QUEUED, AT_WORK, also while it waits for another owner, WAITING, OVER, or LOST: nobody goes on
-- RUN_NOT_FOUND: there is no such run, or it is over and its log expired
local function run_read(keys, args)
  local session, lease, log, work, line = unpack(keys)
  if not has_run(session, args[1], args[2]) then
    return refuse('RUN_NOT_FOUND')
  end
  local place = standing(session, line, args[2])
  if place == 'over' and redis.call('EXISTS', log) == 0 then
    return refuse('RUN_NOT_FOUND')
  end
  local from = text(tonumber(args[3]) + 1) .. '-0'
  local events = {}
  for i, entry in ipairs(redis.call('XRANGE', log, from, '+', 'COUNT', args[4])) do
    events[i] = entry[2][2]
  end
  return {place == 'over' and 'OVER' or place_of(lease, work, place), events}
end

redis.register_function('run_append_VERSION', run_append)
redis.register_function('run_park_VERSION', run_park)
redis.register_function('run_respond_VERSION', run_respond)
redis.register_function('run_wake_VERSION', run_wake)
redis.register_function('run_cancel_VERSION', run_cancel)
redis.register_function('run_announce_VERSION', run_announce)
redis.register_function('run_drop_VERSION', run_drop)
redis.register_function('run_undo_VERSION', run_undo)
redis.register_function{function_name = 'line_later_VERSION', callback = line_later, flags = {'no-writes'}}
redis.register_function{function_name = 'run_read_VERSION', callback = run_read, flags = {'no-writes'}}
