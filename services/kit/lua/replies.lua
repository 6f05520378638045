-- Replies to calls that may be repeated. Each is one string: `r`, the digest of the request (32 bytes) and the ticket
-- while the call is under way; `k`, the digest and the reply once it is kept.

-- reply_begin: begins a call, unless the same request was made before.
-- KEYS reply   ARGV digest ticket running_ms
-- Reply: {} it has begun; {reply} it was made before
-- REQUEST_ID_REUSED: the id came before with another digest; REQUEST_IN_PROGRESS: the first call is under way
local function reply_begin(keys, args)
  local found = redis.call('GET', keys[1])
  if not found then
    redis.call('SET', keys[1], 'r' .. args[1] .. args[2], 'PX', args[3])
    return {}
  end
  if string.sub(found, 2, 33) ~= args[1] then
    return refuse('REQUEST_ID_REUSED')
  end
  if string.sub(found, 1, 1) == 'r' then
    return refuse('REQUEST_IN_PROGRESS', math.min(redis.call('PTTL', keys[1]), 1000))
  end
  return {string.sub(found, 34)}
end

-- reply_keep: keeps the reply to a call, if the call still is the one that this ticket began.
-- KEYS reply   ARGV digest ticket reply keep_ms
-- Reply: OK
local function reply_keep(keys, args)
  if redis.call('GET', keys[1]) == 'r' .. args[1] .. args[2] then
    redis.call('SET', keys[1], 'k' .. args[1] .. args[3], 'PX', args[4])
  end
  return redis.status_reply('OK')
end

-- reply_forget: forgets a call, if it still is the one that this ticket began.
-- KEYS reply   ARGV digest ticket
-- Reply: OK
local function reply_forget(keys, args)
  if redis.call('GET', keys[1]) == 'r' .. args[1] .. args[2] then
    redis.call('UNLINK', keys[1])
  end
  return redis.status_reply('OK')
end

redis.register_function('reply_begin_VERSION', reply_begin)
redis.register_function('reply_keep_VERSION', reply_keep)
redis.register_function('reply_forget_VERSION', reply_forget)
