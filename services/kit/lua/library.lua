#!lua name=myriad_VERSION
-- What must happen at once in Redis. Every function keeps to one tag: all its KEYS hash to the same slot.
--
-- A refusal is the error `MYRIAD <REASON> <ms after which trying again may help, or 0>`; REASON names a ServiceError.
-- Nothing was written then. Times are milliseconds of the server's clock, so that the clocks of its clients do not
-- matter. A session belongs to its owner: for all others it is not there.
--
-- Fields of a session: owner agent request created updated runs token ended cancelled
--   runs: number of the latest run        token: its fencing token
--   ended: number of the run that ended last        cancelled: number of the latest run told to stop
--   logged: number of the latest run with an event in its log
-- Fields of a session's work, which is there from the beginning of a run to its end:
--   record: what was asked        checkpoint: how far its owner has come        attempts: how often it was taken over

local MINUTE_MS, HOUR_MS, TAKEOVER_MS = 60000, 3600000, 1000

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

-- Number of the last event of a log, 0 when there is none, and its bytes.
local function last_event(log)
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if not newest then
    return 0, nil
  end
  return tonumber(string.match(newest[1], '^%d+')), newest[2][2]
end

-- Appends events args[at + 1] to args[at + count], the first with this sequence; those that are there are passed over.
-- Returns why not: LEASE_LOST, the log has another event of that sequence; ABORTED, it would leave a hole.
local function write_events(log, newest, first, count, args, at)
  if first > newest + 1 then
    return 'ABORTED'
  end
  local known = math.min(newest - first + 1, count)
  for i = 1, known do
    local id = (first + i - 1) .. '-0'
    local entry = redis.call('XRANGE', log, id, id)[1]
    if not entry or entry[2][2] ~= args[at + i] then
      return 'LEASE_LOST'
    end
  end
  for i = known + 1, count do
    redis.call('XADD', log, (first + i - 1) .. '-0', 'e', args[at + i])
  end
end

-- Whether the run is the session's latest, this token is its, and it has not ended.
local function may_write(session, run, token)
  local found = redis.call('HMGET', session, 'runs', 'token', 'ended')
  return found[1] == run and found[2] == token and found[3] ~= run
end
