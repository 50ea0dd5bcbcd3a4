-- Slurm's job submission plug-in: batch jobs that say so begin when the grid is clean, and end in time.
--
--   #SBATCH --comment=ebb:deadline=24h            a job that must have ended 24 hours from now; it takes its time limit
--   #SBATCH --comment=ebb:deadline=24h,hours=4    or, by its owner's word, 4 hours
--
-- Put this file beside slurm.conf, set JobSubmitPlugins=lua there, and keep the file of the forecast fresh on the host of
-- slurmctld: ebb carbon export --every 10m /run/ebb/carbon (another path: EBB_CARBON_EXPORT in slurmctld's environment; on
-- a local disk). Nothing here asks a network or waits. Whatever is wrong, with the file or with the comment, the job begins
-- at once as if the plug-in were not there, and its owner is told.
-- A site with a plug-in of its own calls ebb_begin(job_desc) in it.

local path = os.getenv("EBB_CARBON_EXPORT") or "/run/ebb/carbon"
local most_bytes = 256 * 1024
local unit = {d = 86400, h = 3600, m = 60, s = 1}

-- Seconds of "90m", "1d12h", "2.5h"; a bare number counts in `bare`. nil if it is no duration.
local function duration(text, bare)
    if tonumber(text) then
        return bare and tonumber(text) * bare
    end
    local seconds, rest = 0, text
    while rest ~= "" do
        local number, letter, more = rest:match("^(%d+%.?%d*)([dhms])(.*)$")
        if not number then
            return nil
        end
        seconds, rest = seconds + tonumber(number) * unit[letter], more
    end
    return text ~= "" and seconds or nil
end

-- What the comment asks for: {deadline, length}, in seconds; nil and why.
local function wish(comment, time_limit)
    local w = {}
    for word in comment:match("ebb:([^%s;]*)"):gmatch("[^,]+") do
        local key, value = word:match("^(%w+)=(.*)$")
        if key == "deadline" then
            w.deadline = duration(value)
        elseif key == "hours" then
            w.length = duration(value, 3600)
        else
            return nil, "\"" .. word .. "\" is not understood; write ebb:deadline=24h or ebb:deadline=24h,hours=4"
        end
    end
    if not w.deadline then
        return nil, "a deadline is needed: ebb:deadline=24h"
    end
    local minutes = tonumber(time_limit)
    if not w.length and minutes and minutes > 0 and minutes < slurm.INFINITE - 1 then
        w.length = minutes * 60
    end
    if not w.length or w.length <= 0 then
        return nil, "how long the job takes is not known: give --time, or hours=4 in the comment"
    end
    return w
end

-- The file: numbers by name, and the rows of starts by hours. nil and why.
local function forecast(now)
    local file = io.open(path, "r")
    if not file then
        return nil, "no forecast"
    end
    local text = file:read(most_bytes)
    file:close()
    if not text or not text:match("^ebb%-carbon 1\n") or not text:match("\nend\n$") then
        return nil, "a forecast that is broken"
    end
    local f = {start = {}}
    for name, value in text:gmatch("\n([%w-]+) (%d+)") do
        f[name] = f[name] or tonumber(value)
    end
    for hours, row in text:gmatch("\nstart (%d+) ([^\n]*)") do
        f.start[tonumber(hours)] = row
    end
    if not f["valid-until"] or not f.written or not f.begin or now > f["valid-until"] or now < f.written - 300 then
        return nil, "a forecast that is too old"
    end
    return f
end

-- When to begin, and the percentage saved: hours are rounded up, the deadline down.
local function best(f, w, now)
    local row = f.start[math.ceil(w.length / 3600)] or ""
    local deadline, place, last = math.floor((now - f.begin + w.deadline) / 3600), 0, "-"
    for entry in row:gmatch("%S+") do
        place = place + 1
        last = place <= deadline and entry or last
    end
    local seconds, saving = last:match("^(%d+):(%d+)$")
    local begin = f.begin + (tonumber(seconds) or 0)
    if begin <= now or begin + w.length > now + w.deadline then
        return now, 0
    end
    return begin, tonumber(saving)
end

-- The begin time of a job, and what to tell of it; nil if the job does not ask.
local function choose(job_desc, now)
    local comment = job_desc.comment
    if type(comment) ~= "string" or not comment:match("ebb:") or not job_desc.script then
        return nil
    end
    if job_desc.begin_time and job_desc.begin_time > now and job_desc.begin_time < slurm.INFINITE - 1 then
        return nil, "the job has a begin time of its own"
    end
    local w, f, why
    w, why = wish(comment, job_desc.time_limit)
    if w then
        f, why = forecast(now)
    end
    if not w or not f then
        return nil, why .. "; the job begins as soon as it can"
    end
    local begin, saving = best(f, w, now)
    if begin <= now then
        return nil, "now is as good as any time before the deadline; the job begins as soon as it can"
    end
    return begin, string.format("begins at %s, which saves about %d %% of its emissions", os.date("!%Y-%m-%dT%H:%MZ", begin), saving)
end

function ebb_begin(job_desc, now)
    local good, begin, text = pcall(choose, job_desc, now or os.time())
    if not good then
        slurm.log_info("ebb: %s", tostring(begin))
        return
    end
    if begin then
        job_desc.begin_time = begin
        job_desc.comment = job_desc.comment .. "; " .. text
    end
    if text then
        slurm.log_user("ebb: %s", text)
    end
end

function slurm_job_submit(job_desc, part_list, submit_uid)
    ebb_begin(job_desc)
    return slurm.SUCCESS
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
    return slurm.SUCCESS
end

return slurm.SUCCESS
