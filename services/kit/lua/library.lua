#!lua name=myriad_VERSION
-- What must happen at once in Redis. Every function keeps to one tag: all its KEYS hash to the same slot.
--
-- A refusal is the error `MYRIAD <REASON> <ms after which trying again may help, or 0>`; REASON names a ServiceError.
-- Nothing was written then. Times are milliseconds of the server's clock, so that the clocks of its clients do not
-- matter. A session belongs to its owner: for all others it is not there.
--
-- Fields of a session: owner agent request created updated runs current token stopped stop reservation
--   runs: number of the run accepted last        current: number of the run that has the session, also while it waits
--   token: the fencing token given last          stopped, stop: number of the run told to stop last, and how: STOP or
--   ROLL_BACK        reservation: what is set apart for the run that has it
--   settled: what of its spending was counted when it began to wait
--   l<i> s<i>: its budget (budgets.lua)        feedback:<n>: what its user said of run n (feedback.lua)
-- A run is over when it neither is the current one nor stands in the line.
-- Fields of a session's work, which is there from the beginning of a run to its end:
--   record: what was asked        checkpoint: how far its owner has come        attempts: how often an owner was lost
--   waiting: what the run waits for: `answer`, `tool:<call>`, or `again`: to be tried again        until: and how long
--   wake: where a run is put that has what it waited for        response: what it waited for
--   answered: it is there, and nobody has gone on with it yet        woken: by the result of which call
--   handed: its owner has let it go, and is not lost
-- The line: runs that have not begun, by when they are due; their records beside it. They begin in their order.

local MINUTE_MS, HOUR_MS, TAKEOVER_MS = 60000, 3600000, 1000
local STOP, ROLL_BACK = 1, 2

local function refuse(reason, retry_ms)
  return redis.error_reply(string.format('MYRIAD %s %.0f', reason, retry_ms or 0))
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

local function owns(session, owner)
  return redis.call('HGET', session, 'owner') == owner
end

local function describe(session)
  local found = redis.call('HMGET', session, 'agent', 'created', 'updated', 'runs')
  found[5] = redis.call('PEXPIRETIME', session)
  return found
end

-- Number of the last event of a log, 0 when there is none: they are numbered from 1 without holes, and none is removed.
local function last_event(log)
  return redis.call('XLEN', log)
end

-- Bytes of an event of a log, if it is there.
local function event_of(log, number)
  local entry = redis.call('XRANGE', log, number .. '-0', number .. '-0')[1]
  return entry and entry[2][2]
end

-- Appends events args[at + 1] to args[at + count], the first with this sequence; those that are there are passed over.
-- Returns why not: LEASE_LOST, the log has another event of that sequence; ABORTED, it would leave a hole.
local function write_events(log, newest, first, count, args, at)
  if first > newest + 1 then
    return 'ABORTED'
  end
  local known = math.min(newest - first + 1, count)
  for i = 1, known do
    if event_of(log, first + i - 1) ~= args[at + i] then
      return 'LEASE_LOST'
    end
  end
  for i = known + 1, count do
    redis.call('XADD', log, (first + i - 1) .. '-0', 'e', args[at + i])
  end
end

-- How the run was told to stop; 0: it was not.
local function told_to_stop(session, run)
  local found = redis.call('HMGET', session, 'stopped', 'stop')
  return found[1] == run and tonumber(found[2]) or 0
end

-- Whether this run has the session, and this token is its; and as told_to_stop.
local function may_write(session, run, token)
  local found = redis.call('HMGET', session, 'current', 'token', 'stopped', 'stop')
  return found[1] == run and found[2] == token, found[3] == run and tonumber(found[4]) or 0
end

-- Whether a run is in the line, has the session, or neither.
local function standing(session, line, run)
  if redis.call('ZSCORE', line, run) then
    return 'line'
  end
  return redis.call('HGET', session, 'current') == run and 'current' or 'over'
end

-- Number of the run that is due next, or nil. The line is short, and the order is that of the numbers.
local function next_in_line(line)
  local first
  for _, run in ipairs(redis.call('ZRANGEBYSCORE', line, '-inf', text(now_ms()))) do
    if not first or tonumber(run) < tonumber(first) then
      first = run
    end
  end
  return first
end

-- The run that is due next and its record, or nothing while another has the session.
local function next_run(work, line, records)
  local run = redis.call('EXISTS', work) == 0 and next_in_line(line)
  if not run then
    return {}
  end
  return {tonumber(run), redis.call('HGET', records, run)}
end

-- Tells the processes that listen that a run's log, or what it waits for, has changed. A word that is lost is made good
-- by their slow poll.
local function tell(session, run)
  redis.call('PUBLISH', session, run)
end

-- Tells every process that a run is to stop.
local function tell_stop(session, run)
  redis.call('PUBLISH', 'myriad:!stops', session .. ' ' .. run)
end
