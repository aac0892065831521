-- Take the oldest entry that has not expired from a worker channel's queue.
-- KEYS[1] the queue
-- Returns the entry, or false if there is none, and how many had expired before it. What has no
-- deadline is not ours, and is returned.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expired = 0
local entry = redis.call('LPOP', KEYS[1])
while entry and (tonumber(string.sub(entry, 1, 13)) or now) < now do
  expired = expired + 1
  entry = redis.call('LPOP', KEYS[1])
end
return {entry, expired}
