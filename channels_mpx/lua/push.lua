-- Put one message at the end of a worker channel's queue and ring its bell.
-- KEYS[1] the queue
-- ARGV    the bell, the message, how many may wait, milliseconds that one may wait,
--         1 if it is a request, which is of no use unless somebody listens now
-- Returns how many processes heard the bell, or -1 if the queue is full, and how many messages
-- were removed because they had expired. A request that nobody heard is not put into the queue.
--
-- An entry is its deadline, 13 digits of milliseconds since 1970 on Redis's clock, and the message.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local capacity, wait = tonumber(ARGV[3]), tonumber(ARGV[4])
local expired = 0

-- What has no deadline is not ours; whoever pops it counts it.
local function has_expired(entry)
  return (tonumber(string.sub(entry, 1, 13)) or now) < now
end

-- Expired requests may stand anywhere. One look costs at most 1000 entries or a MiB; it begins
-- anywhere, so that the next one finds what it did not see.
local function remove_inside(length)
  local gone, bytes = 0, 0
  for step = 0, math.min(length, 1000) - 1 do
    local at = (now + step) % length
    local entry = redis.call('LINDEX', KEYS[1], at)
    if has_expired(entry) then
      -- Who may not do this (an ACL of an earlier version) has a full queue.
      if redis.pcall('LSET', KEYS[1], at, '0000000000000').err then
        break
      end
      gone = gone + 1
    end
    bytes = bytes + #entry
    if bytes > 1048576 then
      break
    end
  end
  if gone > 0 then
    redis.pcall('LREM', KEYS[1], 0, '0000000000000')
  end
  return gone
end

local head = redis.call('LINDEX', KEYS[1], 0)
while head and has_expired(head) do
  redis.call('LPOP', KEYS[1])
  expired = expired + 1
  head = redis.call('LINDEX', KEYS[1], 0)
end
local length = redis.call('LLEN', KEYS[1])
if length >= capacity then
  expired = expired + remove_inside(length)
  if redis.call('LLEN', KEYS[1]) >= capacity then
    return {-1, expired}
  end
end
-- The bell comes first, to learn who listens; nobody can come for the message before the script ends.
local heard = redis.call('PUBLISH', ARGV[1], '')
if heard == 0 and ARGV[5] == '1' then
  return {0, expired}
end
local deadline = math.min(now + wait, 9999999999999)
redis.call('RPUSH', KEYS[1], string.format('%013.0f', deadline) .. ARGV[2])
-- Twice as long as the entry: whoever comes meanwhile counts what has expired.
if redis.call('PTTL', KEYS[1]) < 2 * wait then
  redis.call('PEXPIRE', KEYS[1], 2 * wait)
end
return {heard, expired}
