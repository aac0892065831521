-- Put one message at the end of a worker channel's queue and ring its bell.
-- KEYS[1] the queue
-- ARGV    the bell, the message, how many may wait, milliseconds that one may wait,
--         1 if it is a request, which is of no use unless somebody listens now
-- Returns how many processes heard the bell, or -1 if the queue is full. A request that nobody
-- heard is not put into the queue.
--
-- An entry is its deadline, 13 digits of milliseconds since 1970 on Redis's clock, and the message.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- What has no deadline is not ours; whoever pops it counts it.
local function head_has_expired()
  local head = redis.call('LINDEX', KEYS[1], 0)
  return head and (tonumber(string.sub(head, 1, 13)) or now) < now
end
while head_has_expired() do
  redis.call('LPOP', KEYS[1])
end
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  return -1
end
-- The bell comes first, to learn who listens; nobody can come for the message before the script ends.
local heard = redis.call('PUBLISH', ARGV[1], '')
if heard == 0 and ARGV[5] == '1' then
  return 0
end
redis.call('RPUSH', KEYS[1], string.format('%013.0f', now + ARGV[4]) .. ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return heard
