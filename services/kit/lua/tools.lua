-- Results of tool calls, kept so that none is made twice.

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

redis.register_function('tool_finish_VERSION', tool_finish)
redis.register_function('tool_abandon_VERSION', tool_abandon)
