-- Give back an entry whose reader went away before it got it, and ring the bell for another one.
-- KEYS[1] the queue
-- ARGV    the bell, the entry
-- Returns how many processes heard the bell, or -1 if the entry has expired, and is gone.
local time = redis.call('TIME')
local left = (tonumber(string.sub(ARGV[2], 1, 13)) or 0) - time[1] * 1000 - math.floor(time[2] / 1000)
if left <= 0 then
  return -1
end
redis.call('LPUSH', KEYS[1], ARGV[2])
if redis.call('PTTL', KEYS[1]) < 2 * left then
  redis.call('PEXPIRE', KEYS[1], 2 * left)
end
return redis.call('PUBLISH', ARGV[1], '')
