-- cluster/slurm/job_submit.lua in plain Lua: what it makes of comments and files. Usage: job_submit.lua PLUGIN FORECAST
--
-- FORECAST is a file by `ebb carbon export`, or any, which this test overwrites.
local plugin, path = arg[1], arg[2]
local told
slurm = {SUCCESS = 0, INFINITE = 4294967295, NO_VAL = 4294967294}
function slurm.log_user(format, ...) told = string.format(format, ...) end
function slurm.log_info(format, ...) told = string.format(format, ...) end
os.getenv = function() return path end
dofile(plugin)

local now, failed = 1700000000, 0

local function write(text)
    local f = assert(io.open(path, "w"))
    f:write(text)
    f:close()
end

local function file(change)
    local text = table.concat({"ebb-carbon 1", "zone GB", "source now 5", "written 1700000000", "valid-until 1700007200",
        "begin 1699999980", "step 3600", "now 300.0", "threshold 100.0", "forecast 300.0 200.0 100.0 100.0",
        "start 1 0:0 3600:33 7200:66 7200:66", "start 2 - 0:0 3600:40 7200:60", "end", ""}, "\n")
    write(change and change(text) or text)
end

-- The begin time after submission, from now; nil: at once. changes: of the job.
local function begin(comment, changes)
    local job = {comment = comment, script = "#!/bin/sh", time_limit = slurm.NO_VAL, begin_time = 0}
    for key, value in pairs(changes or {}) do
        job[key] = value
    end
    told = nil
    local before = job.begin_time
    ebb_begin(job, now)
    return job.begin_time ~= before and job.begin_time - now or nil, job.comment
end

local function claim(what, holds)
    if not holds then
        failed = failed + 1
        print("FAILED: " .. what .. " (told: " .. tostring(told) .. ")")
    end
end

file()
claim("hours and deadline choose the row and the column", begin("ebb:deadline=4h,hours=1") == 7180)
claim("and the comment and the owner are told", told:match("begins at 2023%-11%-15T00:13Z.*66 %%"))
claim("the comment keeps what it asked", select(2, begin("a ebb:deadline=4h,hours=1")):match("^a ebb:deadline=4h,hours=1; begins at"))
claim("a deadline is rounded down", begin("ebb:deadline=119m,hours=1") == nil and begin("ebb:deadline=121m,hours=1") == 3580)
claim("hours are rounded up", begin("ebb:deadline=4h,hours=1.1") == 7180 and begin("ebb:deadline=3h,hours=1.1") == 3580)
claim("days and mixed durations are understood", begin("ebb:deadline=1d,hours=1h") == 7180 and begin("ebb:deadline=3h30m,hours=60m") == 7180)
claim("without hours the time limit counts", begin("ebb:deadline=4h", {time_limit = 61}) == 7180 and begin("ebb:deadline=3h", {time_limit = 120}) == 3580)
claim("a later deadline than the file's is met early", begin("ebb:deadline=48h,hours=1") == 7180)
claim("what does not fit begins at once", begin("ebb:deadline=1h,hours=2") == nil and begin("ebb:deadline=24h,hours=9") == nil)
claim("no length begins at once, and says why", begin("ebb:deadline=4h") == nil and told:match("hours=4"))
claim("no deadline begins at once", begin("ebb:hours=4") == nil and told:match("deadline is needed"))
claim("an unknown word begins at once", begin("ebb:deadline=4h,hour=1") == nil and told:match("hour=1"))
claim("a bad duration begins at once", begin("ebb:deadline=soon,hours=1") == nil and begin("ebb:deadline=24,hours=1") == nil)
claim("other comments and none are left alone", begin("hello") == nil and begin(nil) == nil and told == nil)
claim("what is no batch script is left alone", begin("ebb:deadline=4h,hours=1", {script = false}) == nil and told == nil)
claim("a begin time of its own holds", begin("ebb:deadline=4h,hours=1", {begin_time = now + 60}) == nil and told:match("own"))

now = now + 3600
claim("time that has passed counts", begin("ebb:deadline=3h,hours=1") == 3580)
claim("what lies behind begins at once", begin("ebb:deadline=1h,hours=1") == nil)
now = now + 3601
claim("an old file begins at once", begin("ebb:deadline=4h,hours=1") == nil and told:match("too old"))
now = 1700000000 - 301
claim("so does one of the future", begin("ebb:deadline=4h,hours=1") == nil and told:match("too old"))
now = 1700000000
os.remove(path)
claim("and a missing one", begin("ebb:deadline=4h,hours=1") == nil and told:match("no forecast"))
local whole
file(function(text) whole = text return text end)
for cut = 0, #whole - 1 do -- a file cut anywhere
    write(whole:sub(1, cut))
    claim("cut after " .. cut, begin("ebb:deadline=4h,hours=1") == nil)
end
math.randomseed(7)
for _ = 1, 3000 do -- a byte or two changed anywhere: never an error, never beyond the deadline
    local bytes = whole
    for _ = 1, math.random(2) do
        local at = math.random(#whole)
        bytes = bytes:sub(1, at - 1) .. string.char(math.random(0, 255)) .. bytes:sub(at + 1)
    end
    write(bytes)
    local b = begin("ebb:deadline=4h,hours=1")
    claim("a start beyond the deadline from " .. bytes, b == nil or (b > 0 and b <= 3 * 3600 and b == math.floor(b)))
    claim("an error from " .. bytes, not told or not told:match("lua:"))
end
claim("submission always succeeds", slurm_job_submit({comment = "ebb:deadline=4h,hours=1", script = "x"}, {}, 0) == slurm.SUCCESS)
print(failed == 0 and "ok" or failed .. " claims failed")
os.exit(failed == 0 and 0 or 1)
