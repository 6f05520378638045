-- What budgets say: read and written by people.

-- A budget as it is now: {limits (4), spent (4), set apart (4), window, end of the window}; empty where there is none.
local function show(budget, now)
  local window, renews = renew(budget, now)
  local found = redis.call('HMGET', budget, 'l1', 'l2', 'l3', 'l4', 's1', 's2', 's3', 's4', 'h1', 'h2', 'h3', 'h4')
  for i = 1, 12 do
    found[i] = found[i] or (i > 4 and '0' or '')
  end
  found[13], found[14] = window or '', renews or ''
  return found
end

-- Writes limits args[at + 1] to args[at + 4] and, where there is a window, its length args[at + 5].
-- Returns whether anything is limited.
local function write_limits(key, args, at)
  local limited = false
  for i = 1, 4 do
    if args[at + i] == '' then
      redis.call('HDEL', key, 'l' .. i)
    else
      redis.call('HSET', key, 'l' .. i, args[at + i])
      limited = true
    end
  end
  return limited
end

-- budget_get: reads a budget.
-- KEYS budget reservations
-- Reply: {limits (4), spent (4), set apart (4), window, end of the window}
local function budget_get(keys)
  local now = now_ms()
  expire(keys[1], keys[2], now)
  return show(keys[1], now)
end

-- budget_set: writes a budget. What was spent stays spent; a window that has begun keeps its beginning.
-- KEYS budget reservations   ARGV unused_ttl_ms limits (4) window
-- Reply: as budget_get
local function budget_set(keys, args)
  local budget, reservations = unpack(keys)
  local now = now_ms()
  expire(budget, reservations, now)
  local window, renews = renew(budget, now)
  local limited = write_limits(budget, args, 1)
  if args[6] == '' then
    redis.call('HDEL', budget, 'window', 'renews')
  else
    redis.call('HSET', budget, 'window', args[6])
    if renews then
      redis.call('HSET', budget, 'renews', text(tonumber(renews) - tonumber(window) + tonumber(args[6])))
    end
  end
  if limited then
    redis.call('HSET', budget, 'limited', 1)
    redis.call('PERSIST', budget)
    redis.call('PERSIST', reservations)
  else
    redis.call('HDEL', budget, 'limited')
    redis.call('PEXPIRE', budget, args[1])
    redis.call('PEXPIRE', reservations, args[1])
  end
  return show(budget, now)
end

-- budget_of_session: reads a session's budget, or writes it when limits are given.
-- KEYS session   ARGV owner, empty for whoever it is [limits (4)]
-- Reply: as budget_get, without window, and nothing set apart
-- SESSION_NOT_FOUND
local function budget_of_session(keys, args)
  local owner = redis.call('HGET', keys[1], 'owner')
  if not owner or args[1] ~= '' and args[1] ~= owner then
    return refuse('SESSION_NOT_FOUND')
  end
  if #args > 1 then
    write_limits(keys[1], args, 1)
  end
  local found = redis.call('HMGET', keys[1], 'l1', 'l2', 'l3', 'l4', 's1', 's2', 's3', 's4')
  for i = 1, 8 do
    found[i] = found[i] or (i > 4 and '0' or '')
  end
  for i = 9, 14 do
    found[i] = i < 13 and '0' or ''
  end
  return found
end

redis.register_function('budget_get_VERSION', budget_get)
redis.register_function('budget_set_VERSION', budget_set)
redis.register_function('budget_of_session_VERSION', budget_of_session)
