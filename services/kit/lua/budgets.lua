-- Budgets: what may be spent in a window, what was, and what is set apart for the runs at work.
--
-- Amounts are four, in this order: tokens, cost_micros, tool_calls, milliseconds; empty where nothing is limited.
-- Fields of a budget, <i> from 1 to 4:
--   l<i>: the most that is spent in a window; absent: not limited        s<i>: spent in this window
--   h<i>: set apart        r:<id>: what of it is for this reservation; absent: nothing is
--   limited: there, when anything is
--   window: how long a window is; absent: for ever        renews: when this one ends; absent: it has not begun
-- Reservations are ids by when they expire. An expired one sets nothing apart, but stays, PAST lower in the order, so
-- that what its run has spent is still counted, and counted once. A session needs none: one run at a time has it, so its
-- l<i> and s<i> are all there is, and are fields of the session.

local PAST, PAST_KEPT_MS, MOST_RESERVATIONS = 1e13, 86400000, 100000
local AMOUNTS = '^([^:]*):([^:]*):([^:]*):([^:]*)$'

-- The limits and what was spent, of a budget or a session; whether anything is limited; when a budget's window ends.
local function read_limits(key)
  local found = redis.call('HMGET', key, 'l1', 'l2', 'l3', 'l4', 's1', 's2', 's3', 's4', 'renews')
  local limits, spent, limited = {}, {}, false
  for i = 1, 4 do
    limits[i] = found[i] and tonumber(found[i]) or nil
    spent[i] = tonumber(found[i + 4] or 0)
    limited = limited or limits[i] ~= nil
  end
  return limits, spent, limited, found[9]
end

-- What is left of a session's budget, and whether any of it is gone.
local function left_of_session(session)
  local limits, spent, limited = read_limits(session)
  local left, gone = {}, false
  for i = 1, limited and 4 or 0 do
    left[i] = limits[i] and text(math.max(0, limits[i] - spent[i])) or ''
    gone = gone or left[i] == '0'
  end
  return left, gone
end

-- The fields s<i> of a budget or a session after its runs have spent more, as arguments of HSET.
local function add_spent(spent, more, fields)
  for i = 1, 4 do
    if more[i] ~= 0 then
      fields[#fields + 1] = 's' .. i
      fields[#fields + 1] = text(tonumber(spent[i] or 0) + more[i])
    end
  end
  return fields
end

-- What of the spending of a session's run was counted before: four amounts.
local function counted_before(settled)
  local before = {0, 0, 0, 0}
  for i, amount in ipairs(settled and {string.match(settled, AMOUNTS)} or {}) do
    before[i] = tonumber(amount)
  end
  return before
end

-- Counts what the run that has a session has spent in all, args[at + 1] to args[at + 4], as far as it was not counted
-- before. Puts into the session's outbox, as this field, what its user and its tenant are to be told. Leaves `fields` in
-- the session, arguments of HSET, and nothing reserved.
-- Returns the entry, `<reservation>:<four amounts>`, or empty; what is counted by now; and what was before, if anything.
local function settle_run(session, outbox, field, args, at, fields)
  local found = redis.call('HMGET', session, 's1', 's2', 's3', 's4', 'reservation', 'settled')
  local before, more, counted = counted_before(found[6]), {}, {}
  for i = 1, 4 do
    more[i] = math.max(0, tonumber(args[at + i]) - before[i])
    counted[i] = text(before[i] + more[i])
  end
  table.insert(fields, 'reservation')
  table.insert(fields, '')
  redis.call('HSET', session, unpack(add_spent(found, more, fields)))
  local entry = ''
  if found[5] and found[5] ~= '' then
    entry = string.format('%s:%.0f:%.0f:%.0f:%.0f', found[5], more[1], more[2], more[3], more[4])
    redis.call('HSET', outbox, field, entry)
  end
  return entry, table.concat(counted, ':'), found[6]
end

-- Frees a session whose run has ended, and counts what it has spent, as settle_run. Returns what is to be told.
local function close_account(session, outbox, run, args, at, ttl_ms)
  local entry, _, before = settle_run(session, outbox, 'settle:' .. run, args, at, {'current', 0})
  if before then
    redis.call('HDEL', session, 'settled')
  end
  if entry ~= '' then
    redis.call('PEXPIRE', outbox, ttl_ms)
  end
  return entry
end

-- Counts what a run has spent that waits from now on, as settle_run: while nobody works on it, nothing is reserved.
local function suspend_account(session, outbox, run, args, at)
  local token, lives_until = redis.call('HGET', session, 'token'), redis.call('PEXPIRETIME', session)
  local entry, counted = settle_run(session, outbox, table.concat({'settle', run, token}, ':'), args, at, {})
  redis.call('HSET', session, 'settled', counted)
  if entry ~= '' and lives_until > 0 then
    redis.call('PEXPIREAT', outbox, lives_until)
  end
end

-- Begins a new window when the old one is over: what was spent in it no longer counts.
local function renew(budget, now)
  local found = redis.call('HMGET', budget, 'window', 'renews')
  if found[2] and tonumber(found[2]) <= now then
    redis.call('HDEL', budget, 's1', 's2', 's3', 's4', 'renews')
    found[2] = false
  end
  return found[1], found[2]
end

-- As renew, at a use of the budget: a window begins with the first.
local function use(budget, now)
  local window, renews = renew(budget, now)
  if window and not renews then
    renews = text(now + tonumber(window))
    redis.call('HSET', budget, 'renews', renews)
  end
  return renews
end

-- Sets nothing apart any more for a reservation.
local function give_back(budget, id)
  local amounts = redis.call('HGET', budget, 'r:' .. id)
  if amounts then
    for i, amount in ipairs({string.match(amounts, AMOUNTS)}) do
      if amount ~= '' and amount ~= '0' then
        redis.call('HINCRBY', budget, 'h' .. i, '-' .. amount)
      end
    end
    redis.call('HDEL', budget, 'r:' .. id)
  end
end

-- Gives back what expired, at most 100 at a time, and forgets what did so long ago.
local function expire(budget, reservations, now)
  local over = redis.call('ZRANGEBYSCORE', reservations, 0, text(now), 'WITHSCORES', 'LIMIT', 0, 100)
  for i = 1, #over, 2 do
    give_back(budget, over[i])
    redis.call('ZADD', reservations, text(tonumber(over[i + 1]) - PAST), over[i])
  end
  if #over > 0 then
    redis.call('ZREMRANGEBYSCORE', reservations, '-inf', text(now - PAST - PAST_KEPT_MS))
  end
end

-- What each limited amount has left, 0 at least.
local function left_of(budget, limits, spent)
  local held = redis.call('HMGET', budget, 'h1', 'h2', 'h3', 'h4')
  local left = {}
  for i = 1, 4 do
    left[i] = limits[i] and math.max(0, limits[i] - spent[i] - tonumber(held[i] or 0))
  end
  return left
end

-- After how many milliseconds there is more of what is gone: when a run at work ends, or with the window, 0 for never.
local function more_after(limits, spent, left, renews, now)
  for i = 1, 4 do
    if left[i] == 0 and spent[i] >= limits[i] then
      return renews and tonumber(renews) - now or 0
    end
  end
  return TAKEOVER_MS
end

-- Writes down a reservation of these amounts.
local function keep_reservation(budget, reservations, id, granted, expires)
  if redis.call('ZCARD', reservations) >= MOST_RESERVATIONS then
    give_back(budget, redis.call('ZPOPMIN', reservations)[1])
  end
  local held = false
  for i = 1, #granted do
    if granted[i] ~= '' and granted[i] ~= '0' then
      redis.call('HINCRBY', budget, 'h' .. i, granted[i])
      held = true
    end
  end
  if held then
    redis.call('HSET', budget, 'r:' .. id, table.concat(granted, ':'))
  end
  redis.call('ZADD', reservations, text(expires), id)
end

-- budget_reserve: sets apart what a run may spend: of each limited amount what it wants, or what is left.
-- KEYS budget reservations
-- ARGV id lifetime_ms unused_ttl_ms strict 0|1 replaced wanted amounts (4)
--   unused_ttl_ms: a budget without limits is forgotten so long after its last run
--   replaced: id of a reservation of the same run, this one too, which is no more then; empty: there is none
-- Reply: {} when nothing is limited, else {granted amounts (4), end of the window or empty, what is left in all (4)}
-- BUDGET_EXHAUSTED: it is strict, and something limited has nothing left. It is not: then 0 of that is granted.
local function budget_reserve(keys, args)
  local budget, reservations = unpack(keys)
  local id, now = args[1], now_ms()
  if args[5] ~= '' and redis.call('ZREM', reservations, args[5]) == 1 then
    give_back(budget, args[5])
  end
  local limits, spent, limited, renews = read_limits(budget)
  if not limited then
    keep_reservation(budget, reservations, id, {}, now + tonumber(args[2]))
    redis.call('PEXPIRE', reservations, args[3])
    return {}
  end
  expire(budget, reservations, now)
  if renews and tonumber(renews) <= now then
    spent, renews = {0, 0, 0, 0}, nil
  end
  local left, granted = left_of(budget, limits, spent), {}
  for i = 1, 4 do
    if left[i] == 0 and args[4] == '1' then
      return refuse('BUDGET_EXHAUSTED', more_after(limits, spent, left, renews, now))
    end
    granted[i] = left[i] and text(math.min(left[i], tonumber(args[5 + i]))) or ''
  end
  renews = use(budget, now)
  keep_reservation(budget, reservations, id, granted, now + tonumber(args[2]))
  local reply = {granted[1], granted[2], granted[3], granted[4], renews or ''}
  for i = 1, 4 do
    reply[5 + i] = left[i] and text(left[i]) or ''
  end
  return reply
end

-- budget_touch: session_touch and budget_reserve in one: both are of the user's tag. A refusal touches nothing.
-- KEYS sessions budget reservations [begun]
-- ARGV session_id index_ttl_ms request_ttl_ms, then as budget_reserve
-- Reply: {as session_touch, as budget_reserve}
-- REQUEST_ID_REUSED; BUDGET_EXHAUSTED
local function budget_touch(keys, args)
  local reply = budget_reserve({keys[2], keys[3]}, {unpack(args, 4)})
  if reply.err then
    return reply
  end
  local new = session_touch({keys[1], keys[4]}, args)
  if type(new) == 'table' then
    give_back(keys[2], args[4])
    redis.call('ZREM', keys[3], args[4])
    return new
  end
  return {new, reply}
end

-- budget_settle: counts what runs have spent, once for each reservation, and gives the rest of it back.
-- KEYS budget reservations   ARGV unused_ttl_ms [id spent amounts (4) ...]
-- Reply: how many had not been settled
local function budget_settle(keys, args)
  local budget, reservations = unpack(keys)
  local more, ids = {0, 0, 0, 0}, {}
  for at = 2, #args, 5 do
    if redis.call('ZREM', reservations, args[at]) == 1 then
      ids[#ids + 1] = args[at]
      for i = 1, 4 do
        more[i] = more[i] + tonumber(args[at + i])
      end
    end
  end
  if #ids == 0 then
    return 0
  end
  local found = redis.call('HMGET', budget, 's1', 's2', 's3', 's4', 'h1', 'h2', 'h3', 'h4', 'window', 'limited')
  if found[5] or found[6] or found[7] or found[8] then
    for _, id in ipairs(ids) do
      give_back(budget, id)
    end
  end
  if found[9] then
    use(budget, now_ms())
    found = redis.call('HMGET', budget, 's1', 's2', 's3', 's4', 'h1', 'h2', 'h3', 'h4', 'window', 'limited')
  end
  local fields = add_spent(found, more, {})
  if #fields > 0 then
    redis.call('HSET', budget, unpack(fields))
  end
  if not found[10] then
    redis.call('PEXPIRE', budget, args[1])
  end
  return #ids
end

redis.register_function('budget_reserve_VERSION', budget_reserve)
redis.register_function('budget_touch_VERSION', budget_touch)
redis.register_function('budget_settle_VERSION', budget_settle)
