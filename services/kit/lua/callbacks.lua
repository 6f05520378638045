-- What became of callbacks.
--
-- Fields of a callback: url state attempts reason end_ms
--   state: pending, delivered, failed        attempts: how often it was sent        reason: why the last one failed

-- Keeps it as long as the log of its run; without one, for the time given.
local function keep_callback(callback, log, ttl_ms)
  local until_ms = redis.call('PEXPIRETIME', log)
  if until_ms > 0 then
    redis.call('PEXPIREAT', callback, until_ms)
  else
    redis.call('PEXPIRE', callback, ttl_ms)
  end
end

-- callback_expect: keeps the address that is told when the run has ended; the first stays.
-- KEYS callback   ARGV url ttl_ms
-- Reply: OK
local function callback_expect(keys, args)
  redis.call('HSETNX', keys[1], 'url', args[1])
  if redis.call('HSETNX', keys[1], 'state', 'pending') == 1 then
    redis.call('PEXPIRE', keys[1], args[2])
  end
  return redis.status_reply('OK')
end

-- callback_begin: counts an attempt, unless it was delivered or given up.
-- KEYS callback log   ARGV ttl_ms
-- Reply: {state, attempts}
local function callback_begin(keys, args)
  local state = redis.call('HGET', keys[1], 'state')
  if state ~= 'delivered' and state ~= 'failed' then
    state = 'pending'
    redis.call('HSET', keys[1], 'state', state)
    redis.call('HINCRBY', keys[1], 'attempts', 1)
    keep_callback(keys[1], keys[2], args[1])
  end
  return {state, tonumber(redis.call('HGET', keys[1], 'attempts'))}
end

-- callback_note: writes what became of an attempt, unless it was delivered or given up.
-- KEYS callback log   ARGV state reason ttl_ms
-- Reply: OK
local function callback_note(keys, args)
  local state = redis.call('HGET', keys[1], 'state')
  if state ~= 'delivered' and state ~= 'failed' then
    redis.call('HSET', keys[1], 'state', args[1], 'reason', args[2])
    if args[1] ~= 'pending' then
      redis.call('HSET', keys[1], 'end_ms', text(now_ms()))
    end
    keep_callback(keys[1], keys[2], args[3])
  end
  return redis.status_reply('OK')
end

redis.register_function('callback_expect_VERSION', callback_expect)
redis.register_function('callback_begin_VERSION', callback_begin)
redis.register_function('callback_note_VERSION', callback_note)
