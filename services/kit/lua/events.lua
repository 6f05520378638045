-- What happens in a tenant.

-- events_tell: appends events to a tenant's stream, and keeps about so many of the newest.
-- KEYS events   ARGV kept ttl_ms event ...
-- Reply: OK
local function events_tell(keys, args)
  for i = 3, #args do
    redis.call('XADD', keys[1], 'MAXLEN', '~', args[1], '*', 'e', args[i])
  end
  redis.call('PEXPIRE', keys[1], args[2])
  return redis.status_reply('OK')
end

redis.register_function('events_tell_VERSION', events_tell)
