-- Which process works in which sessions.

-- owner_beat: says that a process lives, and finds those that no longer do.
-- KEYS owners   ARGV owner ttl_ms
-- Reply: {the server's time, up to 10 owners that were not heard of in time}
local function owner_beat(keys, args)
  local now = now_ms()
  redis.call('ZADD', keys[1], text(now + tonumber(args[2])), args[1])
  return {now, redis.call('ZRANGEBYSCORE', keys[1], '-inf', '(' .. text(now), 'LIMIT', 0, 10)}
end

-- owner_take: gives sessions of a process that is gone to another.
-- KEYS owners sessions_of_the_gone sessions_of_the_taker   ARGV gone max_sessions
-- Reply: those that were given; none: there are none left, or it lives after all
local function owner_take(keys, args)
  local heard = redis.call('ZSCORE', keys[1], args[1])
  if not heard or tonumber(heard) >= now_ms() then
    return {}
  end
  local given = redis.call('SPOP', keys[2], args[2])
  if #given > 0 then
    redis.call('SADD', keys[3], unpack(given))
  else
    redis.call('ZREM', keys[1], args[1])
  end
  return given
end

redis.register_function('owner_beat_VERSION', owner_beat)
redis.register_function('owner_take_VERSION', owner_take)
