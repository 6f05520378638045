-- Runs of a tenant that were given up.

-- Forgets letters that are too old, and the oldest of those that are too many.
local function dead_letters_trim(times, letters, max, ttl_ms, now)
  local gone = redis.call('ZRANGEBYSCORE', times, '-inf', text(now - ttl_ms), 'LIMIT', 0, 1000)
  local over = redis.call('ZCARD', times) - #gone - max
  for _, run in ipairs(over > 0 and redis.call('ZRANGE', times, #gone, #gone + math.min(over, 1000) - 1) or {}) do
    gone[#gone + 1] = run
  end
  if #gone > 0 then
    redis.call('ZREM', times, unpack(gone))
    redis.call('HDEL', letters, unpack(gone))
  end
end

-- dead_letter_put: keeps a letter, if there is none of this run.
-- KEYS times letters   ARGV run time_ms letter max ttl_ms
-- Reply: 1, or 0 when there is one
local function dead_letter_put(keys, args)
  local times, letters = keys[1], keys[2]
  if redis.call('HSETNX', letters, args[1], args[3]) == 0 then
    return 0
  end
  redis.call('ZADD', times, args[2], args[1])
  redis.call('PEXPIRE', times, args[5])
  redis.call('PEXPIRE', letters, args[5])
  dead_letters_trim(times, letters, tonumber(args[4]), tonumber(args[5]), now_ms())
  return 1
end

-- dead_letter_page: letters, the newest first; of the same time those that come later by the alphabet.
-- KEYS times letters   ARGV after_time_ms after_run max_letters ttl_ms   after: both empty for the newest
-- Reply: {letter ...}
local function dead_letter_page(keys, args)
  local most, oldest, page, from = tonumber(args[3]), text(now_ms() - tonumber(args[4])), {}, 0
  local newest = args[1] == '' and '+inf' or args[1]
  while #page < most do
    local found = redis.call('ZRANGE', keys[1], newest, '(' .. oldest, 'BYSCORE', 'REV', 'LIMIT', from, most, 'WITHSCORES')
    for at = 1, #found, 2 do
      if #page < most and (found[at + 1] ~= args[1] or found[at] < args[2]) then
        page[#page + 1] = redis.call('HGET', keys[2], found[at])
      end
    end
    if #found < 2 * most then
      break
    end
    from = from + most
  end
  return page
end

-- dead_letter_remove: forgets a letter.
-- KEYS times letters   ARGV run
-- Reply: OK
local function dead_letter_remove(keys, args)
  redis.call('ZREM', keys[1], args[1])
  redis.call('HDEL', keys[2], args[1])
  return redis.status_reply('OK')
end

redis.register_function('dead_letter_put_VERSION', dead_letter_put)
redis.register_function('dead_letter_remove_VERSION', dead_letter_remove)
redis.register_function{function_name = 'dead_letter_page_VERSION', callback = dead_letter_page, flags = {'no-writes'}}
