-- Results of tool calls, kept so that none is made twice, and approvals, each good for one call.
--
-- An approval is JSON: {run, tool, key, expires_ms, state}; run: the number; key: names the effect, the arguments
-- included; state: open, approved, denied, used; answer: digest of what was answered, and by whom. What else it holds
-- stays.

local EFFECTS_MS = 25 * HOUR_MS -- results are kept for a day from the end of their call

-- The approval of this call, if it ever was given, and what it says; else nil.
local function approval_of(session, approvals, owner, approval, run, tool, key)
  local kept = owns(session, owner) and redis.call('HGET', approvals, approval)
  if not kept then
    return nil
  end
  local read, found = pcall(cjson.decode, kept)
  if not read or tostring(found.run) ~= run or found.tool ~= tool or found.key ~= key then
    return nil
  end
  if found.state ~= 'approved' and found.state ~= 'used' then
    return nil
  end
  return found
end

-- Uses an approval up. Returns whether it was good.
local function use_approval(approvals, approval, found)
  if found.state ~= 'approved' or tonumber(found.expires_ms) <= now_ms() then
    return false
  end
  found.state = 'used'
  redis.call('HSET', approvals, approval, cjson.encode(found))
  return true
end

-- Notes the key of what a tool did, or does, for as long as it may be there: the deletion of the session takes it along.
local function note_effect(effects, key, ttl_ms)
  local now, kept_ms = now_ms(), tonumber(ttl_ms) + EFFECTS_MS
  redis.call('ZREMRANGEBYSCORE', effects, '-inf', text(now))
  redis.call('ZADD', effects, text(now + kept_ms), key)
  if redis.call('PTTL', effects) < kept_ms then
    redis.call('PEXPIRE', effects, text(kept_ms))
  end
end

-- tool_begin: begins a tool call, unless it was begun before.
-- KEYS tool_call effects   ARGV running ttl_ms
-- Reply: what is kept of the call when it was begun before; nil when it begins now.
local function tool_begin(keys, args)
  local kept = redis.call('SET', keys[1], args[1], 'NX', 'GET', 'PX', args[2])
  if not kept then
    note_effect(keys[2], keys[1], args[2])
  end
  return kept
end

-- tool_approved: begins a tool call under an approval, and uses the approval up.
-- KEYS session approvals tool_call effects   ARGV owner approval run tool key running ttl_ms
-- Reply: what is kept of the call when it was begun before; nil when it begins now.
-- APPROVAL_INVALID: it is of another call, was not given, has expired, or was used and nothing is known of its call.
local function tool_approved(keys, args)
  local session, approvals, call, effects = unpack(keys)
  local owner, approval, run, tool, key, running, ttl_ms = unpack(args)
  local found = approval_of(session, approvals, owner, approval, run, tool, key)
  if not found then
    return refuse('APPROVAL_INVALID')
  end
  local kept = redis.call('GET', call)
  if kept then
    return kept
  end
  if not use_approval(approvals, approval, found) then
    return refuse('APPROVAL_INVALID')
  end
  redis.call('SET', call, running, 'PX', ttl_ms)
  note_effect(effects, call, ttl_ms)
  return nil
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

redis.register_function('tool_begin_VERSION', tool_begin)
redis.register_function('tool_approved_VERSION', tool_approved)
redis.register_function('tool_finish_VERSION', tool_finish)
redis.register_function('tool_abandon_VERSION', tool_abandon)
