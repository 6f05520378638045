-- The log of a run.

-- run_append: appends events to the log of a run, and holds the session further.
-- KEYS session lease log work   ARGV run token first_sequence log_ttl_ms lease_ms checkpoint [event ...]
--   lease_ms: how long the session is held from now on; 0: as before. No event: only that, and the reply.
--   checkpoint: how far the owner has come with these events; empty: as before.
-- Reply: 1 when the run was told to stop, else 0. Events that are in the log already change nothing.
-- LEASE_LOST: the token is not the session's latest, the run has ended, or the log has another event of that sequence;
-- ABORTED: first_sequence leaves a hole
local function run_append(keys, args)
  local session, lease, log, work = unpack(keys)
  local first, count = tonumber(args[3]), #args - 6
  if not may_write(session, args[1], args[2]) then
    return refuse('LEASE_LOST')
  end
  if count > 0 then
    local reason = write_events(log, last_event(log), first, count, args, 6)
    if reason then
      return refuse(reason)
    end
    redis.call('PEXPIRE', log, args[4])
    redis.call('HSET', session, 'logged', args[1])
  end
  if args[6] ~= '' then
    redis.call('HSET', work, 'checkpoint', args[6])
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
-- KEYS session lease log work   ARGV owner run after_sequence max_events
-- Reply: {over 0|1, held 0|1, {events, the first with sequence after_sequence + 1}}
--   over: the log gets no more events; held: the run has an owner, or waits for another. Neither: nobody goes on.
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
  local held = not over and redis.call('EXISTS', keys[2], keys[4]) > 0
  local from = text(tonumber(args[3]) + 1) .. '-0'
  local events = {}
  for i, entry in ipairs(redis.call('XRANGE', keys[3], from, '+', 'COUNT', args[4])) do
    events[i] = entry[2][2]
  end
  return {over and 1 or 0, held and 1 or 0, events}
end

redis.register_function('run_append_VERSION', run_append)
redis.register_function('run_cancel_VERSION', run_cancel)
redis.register_function{function_name = 'run_read_VERSION', callback = run_read, flags = {'no-writes'}}
