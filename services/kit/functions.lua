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

local MINUTE_MS, HOUR_MS = 60000, 3600000

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

-- session_touch: moves a session to the front of its user's index if it is there; drops those long expired.
-- KEYS sessions   ARGV session_id index_ttl_ms
-- Reply: OK
local function session_touch(keys, args)
  local now = now_ms()
  redis.call('ZADD', keys[1], 'XX', text(now), args[1])
  redis.call('PEXPIRE', keys[1], args[2])
  redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', '(' .. text(now - tonumber(args[2]) - HOUR_MS))
  return redis.status_reply('OK')
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
      'created', now, 'updated', now, 'runs', 0, 'token', 0, 'ended', 0, 'cancelled', 0)
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

-- session_delete: forgets a session. Its logs are left to the caller: only the reply says how many there are.
-- KEYS session lease history requests request_times   ARGV owner
-- Reply: {number of the latest run, id of the request that made it}
-- SESSION_NOT_FOUND; SESSION_BUSY
local function session_delete(keys, args)
  if not owns(keys[1], args[1]) then
    return refuse('SESSION_NOT_FOUND')
  end
  local held_ms = redis.call('PTTL', keys[2])
  if held_ms > 0 then
    return refuse('SESSION_BUSY', held_ms)
  end
  local found = redis.call('HMGET', keys[1], 'runs', 'request')
  redis.call('UNLINK', unpack(keys))
  return {tonumber(found[1]), found[2]}
end

-- Drops the requests whose time is over, at most 100 of them: each turn adds only one.
local function forget_requests(requests, times, now)
  local over = redis.call('ZRANGEBYSCORE', times, '-inf', text(now), 'LIMIT', 0, 100)
  if #over > 0 then
    redis.call('HDEL', requests, unpack(over))
    redis.call('ZREM', times, unpack(over))
  end
end

-- turn_begin: takes the lease, numbers the run, and reads what the agent remembers.
-- KEYS session lease history requests request_times
-- ARGV owner request_id digest lease_ms max_messages session_ttl_ms request_ttl_ms
-- Reply: {attached 0|1, run, token, agent, {newest messages, oldest first}}; attached: nothing was taken, no messages.
-- A run that the same request began, that never logged anything and that nobody holds begins again under a new token.
-- SESSION_NOT_FOUND; REQUEST_ID_REUSED; SESSION_BUSY
local function turn_begin(keys, args)
  local session, lease, history, requests, times = unpack(keys)
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
  local run = redis.call('HINCRBY', session, 'runs', 1)
  local token = redis.call('HINCRBY', session, 'token', 1)
  redis.call('HSET', session, 'updated', text(now))
  redis.call('SET', lease, token, 'PX', args[4])
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

-- turn_end: ends a run: appends the last events to its log and the messages, if any, to the history, frees the session.
-- KEYS session lease history log
-- ARGV owner run token first_sequence session_ttl_ms log_ttl_ms history_cap event_count event ... [message ...]
-- Reply: OK. Events that are in the log already are passed over. Repeated with the same last event it changes nothing,
-- also when later runs have begun.
-- SESSION_NOT_FOUND; LEASE_LOST: the token is not the session's latest, the run ended otherwise, or the log has another
-- event of that sequence; ABORTED: first_sequence leaves a hole
local function turn_end(keys, args)
  local session, lease, history, log = unpack(keys)
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
  redis.call('UNLINK', lease)
  return redis.status_reply('OK')
end

-- run_append: appends events to the log of a run, and holds the session further.
-- KEYS session lease log   ARGV run token first_sequence log_ttl_ms lease_ms [event ...]
--   lease_ms: how long the session is held from now on; 0: as before. No event: only that, and the reply.
-- Reply: 1 when the run was told to stop, else 0. Events that are in the log already change nothing.
-- LEASE_LOST: the token is not the session's latest, the run has ended, or the log has another event of that sequence;
-- ABORTED: first_sequence leaves a hole
local function run_append(keys, args)
  local session, lease, log = unpack(keys)
  local first, count = tonumber(args[3]), #args - 5
  if not may_write(session, args[1], args[2]) then
    return refuse('LEASE_LOST')
  end
  if count > 0 then
    local reason = write_events(log, last_event(log), first, count, args, 5)
    if reason then
      return refuse(reason)
    end
    redis.call('PEXPIRE', log, args[4])
    redis.call('HSET', session, 'logged', args[1])
  end
  if args[5] ~= '0' then
    redis.call('SET', lease, args[2], 'PX', args[5])
  end
  return redis.call('HGET', session, 'cancelled') == args[1] and 1 or 0
end

-- run_cancel: tells a run to stop: run_append says so from now on.
-- KEYS session   ARGV owner run
-- Reply: 1 when it was told, 0 when it has ended
-- RUN_NOT_FOUND
local function run_cancel(keys, args)
  local found = redis.call('HMGET', keys[1], 'owner', 'runs', 'ended')
  local run = tonumber(args[2])
  if found[1] ~= args[1] or run < 1 or run > tonumber(found[2]) then
    return refuse('RUN_NOT_FOUND')
  end
  if run < tonumber(found[2]) or run == tonumber(found[3]) then
    return 0
  end
  redis.call('HSET', keys[1], 'cancelled', args[2])
  return 1
end

-- run_read: reads a run's log from a cursor on.
-- KEYS session lease log   ARGV owner run after_sequence max_events
-- Reply: {over 0|1, held 0|1, {events, the first with sequence after_sequence + 1}}
--   over: the log gets no more events; held: the run's owner holds the session. Neither: its owner is gone.
-- RUN_NOT_FOUND: there is no such run, or it is over and its log expired
local function run_read(keys, args)
  local found = redis.call('HMGET', keys[1], 'owner', 'runs', 'ended')
  local run = tonumber(args[2])
  if found[1] ~= args[1] or run < 1 or run > tonumber(found[2]) then
    return refuse('RUN_NOT_FOUND')
  end
  local over = run < tonumber(found[2]) or run == tonumber(found[3])
  if over and redis.call('EXISTS', keys[3]) == 0 then
    return refuse('RUN_NOT_FOUND')
  end
  local held = not over and redis.call('EXISTS', keys[2]) == 1
  local from = text(tonumber(args[3]) + 1) .. '-0'
  local events = {}
  for i, entry in ipairs(redis.call('XRANGE', keys[3], from, '+', 'COUNT', args[4])) do
    events[i] = entry[2][2]
  end
  return {over and 1 or 0, held and 1 or 0, events}
end

-- tool_finish: keeps the result of a tool call, if the call still is the one that this ticket began.
-- KEYS tool_call   ARGV running result ttl_ms
-- Reply: OK
local function tool_finish(keys, args)
  if redis.call('GET', keys[1]) == args[1] then
    redis.call('SET', keys[1], args[2], 'PX', args[3])
  end
  return redis.status_reply('OK')
end

-- tool_abandon: forgets a tool call, if it still is the one that this ticket began.
-- KEYS tool_call   ARGV running
-- Reply: OK
local function tool_abandon(keys, args)
  if redis.call('GET', keys[1]) == args[1] then
    redis.call('UNLINK', keys[1])
  end
  return redis.status_reply('OK')
end

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

redis.register_function('session_add_VERSION', session_add)
redis.register_function('session_touch_VERSION', session_touch)
redis.register_function('session_drop_VERSION', session_drop)
redis.register_function('session_create_VERSION', session_create)
redis.register_function('session_delete_VERSION', session_delete)
redis.register_function('turn_begin_VERSION', turn_begin)
redis.register_function('turn_end_VERSION', turn_end)
redis.register_function('run_append_VERSION', run_append)
redis.register_function('run_cancel_VERSION', run_cancel)
redis.register_function('tool_finish_VERSION', tool_finish)
redis.register_function('tool_abandon_VERSION', tool_abandon)
redis.register_function('agent_put_VERSION', agent_put)

redis.register_function{function_name = 'session_get_VERSION', callback = session_get, flags = {'no-writes'}}
redis.register_function{function_name = 'session_history_VERSION', callback = session_history, flags = {'no-writes'}}
redis.register_function{function_name = 'run_read_VERSION', callback = run_read, flags = {'no-writes'}}
redis.register_function{function_name = 'agent_get_VERSION', callback = agent_get, flags = {'no-writes'}}
