-- Tools at work in the background.
--
-- Fields of an execution: state call once ticket attempts result reason
--   state: running, done, failed, cancelled; all but the first are final        call: what is to be run
--   once: it may have an effect each time, so it is never begun twice        ticket: names who runs it
--   attempts: how often it was begun        result, reason: what came of it

local function describe_execution(execution)
  local found = redis.call('HMGET', execution, 'state', 'call', 'result', 'reason')
  if not found[1] then
    return nil
  end
  return {found[1], found[2], found[3] or '', found[4] or ''}
end

local function end_execution(execution, state, result, reason, keep_ms)
  redis.call('HSET', execution, 'state', state, 'result', result, 'reason', reason)
  redis.call('PEXPIRE', execution, keep_ms)
end

-- execution_begin: keeps what is to be run, unless it is kept already.
-- KEYS execution session effects   ARGV call once ttl_ms owner   once: 1 or 0
-- Or, under an approval, which is used up: KEYS execution session effects approvals
-- ARGV call once ttl_ms owner approval run tool key. What failed or was stopped is begun anew by an unused one.
-- Reply: {state, call, result, reason}
-- RUN_NOT_FOUND: the session is another's, or gone; APPROVAL_INVALID: as tool_approved
local function execution_begin(keys, args)
  local execution, session, effects, approvals = unpack(keys)
  if not owns(session, args[4]) then
    return refuse('RUN_NOT_FOUND')
  end
  local found = nil
  if approvals then
    found = approval_of(session, approvals, args[4], args[5], args[6], args[7], args[8])
    if not found then
      return refuse('APPROVAL_INVALID')
    end
  end
  local known = describe_execution(execution)
  local lost = known and (known[1] == 'failed' or known[1] == 'cancelled')
  if known and not (lost and found and found.state == 'approved') then
    return known
  end
  if found and not use_approval(approvals, args[5], found) then
    return refuse('APPROVAL_INVALID')
  end
  redis.call('UNLINK', execution)
  redis.call('HSET', execution, 'state', 'running', 'call', args[1], 'once', args[2])
  redis.call('PEXPIRE', execution, args[3])
  note_effect(effects, execution, args[3])
  return describe_execution(execution)
end

-- execution_get: reads an execution.
-- KEYS execution
-- Reply: {state, call, result, reason}
-- EXECUTION_NOT_FOUND
local function execution_get(keys, args)
  return describe_execution(keys[1]) or refuse('EXECUTION_NOT_FOUND')
end

-- execution_take: makes this ticket the one that runs it. What may have an effect each time and was begun before fails
-- instead: nobody knows what became of it. So does what was begun too often.
-- KEYS execution   ARGV ticket max_attempts keep_ms
-- Reply: {state, call, result, reason}; running: it is the ticket's
-- EXECUTION_NOT_FOUND
local function execution_take(keys, args)
  local found = redis.call('HMGET', keys[1], 'state', 'once', 'ticket', 'attempts')
  if not found[1] then
    return refuse('EXECUTION_NOT_FOUND')
  end
  if found[1] == 'running' then
    local begun = found[3] and found[3] ~= ''
    if (begun and found[2] == '1') or tonumber(found[4] or 0) >= tonumber(args[2]) then
      end_execution(keys[1], 'failed', '', 'EXECUTION_INTERRUPTED', args[3])
    else
      redis.call('HSET', keys[1], 'ticket', args[1])
      redis.call('HINCRBY', keys[1], 'attempts', 1)
    end
  end
  return describe_execution(keys[1])
end

-- execution_release: lets another begin it, if this ticket still runs it; it does not count as begun. What may have an
-- effect each time is not released.
-- KEYS execution   ARGV ticket
-- Reply: OK
local function execution_release(keys, args)
  local found = redis.call('HMGET', keys[1], 'state', 'once', 'ticket')
  if found[1] == 'running' and found[2] == '0' and found[3] == args[1] then
    redis.call('HSET', keys[1], 'ticket', '')
    redis.call('HINCRBY', keys[1], 'attempts', -1)
  end
  return redis.status_reply('OK')
end

-- execution_finish: writes what came of it, if this ticket still runs it.
-- KEYS execution   ARGV ticket state result reason keep_ms
-- Reply: 1; 0: it does not
local function execution_finish(keys, args)
  local found = redis.call('HMGET', keys[1], 'state', 'ticket')
  if found[1] ~= 'running' or found[2] ~= args[1] then
    return 0
  end
  end_execution(keys[1], args[2], args[3], args[4], args[5])
  return 1
end

-- execution_cancel: stops it, unless it has ended.
-- KEYS execution   ARGV reason keep_ms
-- Reply: {state, call, result, reason}
-- EXECUTION_NOT_FOUND
local function execution_cancel(keys, args)
  local state = redis.call('HGET', keys[1], 'state')
  if state == 'running' then
    end_execution(keys[1], 'cancelled', '', args[1], args[2])
  end
  return describe_execution(keys[1]) or refuse('EXECUTION_NOT_FOUND')
end

redis.register_function('execution_begin_VERSION', execution_begin)
redis.register_function{function_name = 'execution_get_VERSION', callback = execution_get, flags = {'no-writes'}}
redis.register_function('execution_take_VERSION', execution_take)
redis.register_function('execution_release_VERSION', execution_release)
redis.register_function('execution_finish_VERSION', execution_finish)
redis.register_function('execution_cancel_VERSION', execution_cancel)
