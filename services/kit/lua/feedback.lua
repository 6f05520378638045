-- Words on runs: fields `feedback:<n>` of the session, so that they live as long as it does.

-- feedback_put: keeps what the session's user says of a run; a second word replaces the first.
-- KEYS session   ARGV owner run feedback
-- Reply: the session's agent
-- RUN_NOT_FOUND
local function feedback_put(keys, args)
  local found = redis.call('HMGET', keys[1], 'owner', 'runs', 'agent')
  local run = tonumber(args[2])
  if found[1] ~= args[1] or run < 1 or run > tonumber(found[2]) then
    return refuse('RUN_NOT_FOUND')
  end
  redis.call('HSET', keys[1], 'feedback:' .. args[2], args[3])
  return found[3]
end

redis.register_function('feedback_put_VERSION', feedback_put)
