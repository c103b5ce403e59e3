-- The environment of scripts. Runs once in an interpreter. `make` runs for every invocation and creates all tables that a
-- script can reach, so a later invocation does not see changes. Names are local, because a script must not change them.
local native = ...
local null, array, empty_array = native.null, native.array, native.empty_array
local assert, error, getmetatable, ipairs, next, pairs, pcall = assert, error, getmetatable, ipairs, next, pairs, pcall
local rawequal, rawget, rawset, select, setmetatable = rawequal, rawget, rawset, select, setmetatable
local tonumber, tostring, type, unpack, xpcall, _VERSION = tonumber, tostring, type, unpack, xpcall, _VERSION
local concat, gsub, floor = table.concat, string.gsub, math.floor
local clock, date, difftime, time = os.clock, os.date, os.difftime, os.time
local randomseed, byte, format = math.randomseed, string.byte, string.format

-- Returns a function that copies a table whose keys are names. A constructor with all keys is many times faster than a loop.
local function copier(library)
  local names, locals, members, values = {}, {}, {}, {}
  for name in pairs(library) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    locals[i], members[i], values[i] = "v" .. i, name .. " = v" .. i, library[name]
  end
  local code = "local " .. concat(locals, ", ") .. " = ... return function() return {" .. concat(members, ", ") .. "} end"
  return loadstring(code)(unpack(values))
end

string.dump = nil
local new_string, new_table, new_math = copier(string), copier(table), copier(math)
local new_bit, new_coroutine = copier(bit), copier(coroutine)
local new_os = copier({clock = clock, date = date, difftime = difftime, time = time})

-- A script that could reach the metatable would change the strings of later invocations.
local strings = getmetatable("")
strings.__metatable = false

-- Names that scripts of gateways use and that are nil here. The error message names them.
local absent = {
  io = "io", debug = "debug", package = "package", ffi = "ffi", jit = "jit", load = "load", loadstring = "loadstring",
  loadfile = "loadfile", dofile = "dofile", module = "module", getfenv = "getfenv", setfenv = "setfenv",
  newproxy = "newproxy", collectgarbage = "collectgarbage", dump = "string.dump",
}

local find, sub = string.find, string.sub
local function explain(message, place)
  if type(message) ~= "string" then return message end
  local _, _, name = find(message, "attempt to %a+ %a+ '([%w_]+)' %(a nil value%)$")
  if not (name and absent[name]) then return message end
  return message .. ": " .. absent[name] .. " is not available in " .. place
end

local function checked(value, why)
  if why then error(why, 3) end
  return value
end

local html = {["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;", ["/"] = "&#47;"}
local html_and_braces = {["{"] = "&#123;", ["}"] = "&#125;"}
for character, entity in pairs(html) do html_and_braces[character] = entity end

local function output(value)
  if value == nil or value == null then return "" end
  if type(value) == "function" then return output(value()) end
  return tostring(value)
end

local function escape(value, braces)
  if type(value) ~= "string" then return output(value) end
  if braces then return (gsub(value, "[}{\">/<'&]", html_and_braces)) end
  return (gsub(value, "[\">/<'&]", html))
end

local function text(...)
  local parts = {...}
  for i = 1, select("#", ...) do parts[i] = tostring(parts[i]) end
  return concat(parts)
end

local function level(number)
  return function(...) native.log(number, text(...)) end
end
local levels = {
  emerg = level(1), alert = level(2), crit = level(3), err = level(4), error = level(4), warn = level(5), notice = level(6),
  info = level(7), debug = level(8),
}

local function string_argument(value, name)
  if type(value) == "number" then value = tostring(value) end
  if type(value) ~= "string" then error("bad argument to " .. name .. " (string expected, got " .. type(value) .. ")", 3) end
  return value
end

local place = "a lambda"

-- Raises an error with the name of the missing member. One function for each library, because metatables are created for
-- each invocation.
local function absent_in(name)
  return function(_, key) error(name .. "." .. tostring(key) .. " is not available in " .. place, 2) end
end
local no_os, no_ngx, no_kong, no_kong_log = absent_in("os"), absent_in("ngx"), absent_in("kong"), absent_in("kong.log")
local no_template = absent_in("template")

-- Reads an argument that is a Boolean, "on" or "off"; nil leaves the setting as it is.
local function switch(value, current, name)
  if value == nil then return current end
  if value == true or value == "on" then return true end
  if value == false or value == "off" then return false end
  error("bad argument to " .. name .. " (true, false, 'on' or 'off' expected)", 3)
end

local function whole_number(value, current, name)
  if value == nil then return current end
  if type(value) ~= "number" or not (value >= 0 and value <= 2147483647) or floor(value) ~= value then
    error("bad argument to " .. name .. " (expected integer between 0 and 2147483647)", 3)
  end
  return value
end

local function reset(settings)
  settings.empty_table_as_object, settings.with_array_mt = true, false
  settings.convert, settings.ratio, settings.safe = false, 2, 10
  return settings
end

-- Returns the members of a cjson module with its own settings. `safe`: errors are returned instead of raised.
local no_cjson, no_safe = absent_in("cjson"), absent_in("cjson.safe")
local new_instance
local function cjson_members(settings, safe)
  local function encode(value)
    return native.encode(value, settings.empty_table_as_object, settings.convert, settings.ratio, settings.safe)
  end
  return {
    null = null, array_mt = array, empty_array_mt = empty_array, _NAME = "cjson", empty_array = false,
    encode = safe and encode or function(value) return checked(encode(value)) end,
    decode = safe and function(value)
      if type(value) ~= "string" then return nil, "bad argument to decode (string expected, got " .. type(value) .. ")" end
      return native.decode(value, settings.with_array_mt)
    end or function(value) return checked(native.decode(string_argument(value, "decode"), settings.with_array_mt)) end,
    encode_empty_table_as_object = function(value)
      settings.empty_table_as_object =
        switch(value, settings.empty_table_as_object, "encode_empty_table_as_object")
      return settings.empty_table_as_object
    end,
    decode_array_with_array_mt = function(value)
      settings.with_array_mt = switch(value, settings.with_array_mt, "decode_array_with_array_mt")
      return settings.with_array_mt
    end,
    encode_sparse_array = function(convert, ratio, safe_index)
      local name = "encode_sparse_array"
      convert = switch(convert, settings.convert, name)
      ratio, safe_index = whole_number(ratio, settings.ratio, name), whole_number(safe_index, settings.safe, name)
      settings.convert, settings.ratio, settings.safe = convert, ratio, safe_index
      return convert, ratio, safe_index
    end,
    new = function() return new_instance(safe) end,
  }
end

local function marked_list() return setmetatable({}, array) end
new_instance = function(safe)
  local members = cjson_members(reset({}), safe)
  members.empty_array = marked_list()
  return setmetatable(members, {__index = safe and no_safe or no_cjson})
end

local cjson_settings, safe_settings = reset({}), reset({})
local new_cjson = copier(cjson_members(cjson_settings, false))
local new_safe = copier(cjson_members(safe_settings, true))
-- `json()` of templates, which settings of cjson do not change.
local function encode(value) return checked(native.encode(value, true, false, 2, 10)) end

-- ngx.re. The parts of a match are bounds: the first and last byte of each group, counted from 1, or false.
local no_re = absent_in("ngx.re")

local function options_argument(options, name)
  if options == nil then return "" end
  options = string_argument(options, name)
  local unknown = find(options, "[^aijmosux]")
  if unknown then
    error("bad argument to " .. name .. ": the option '" .. sub(options, unknown, unknown) .. "' is not supported", 3)
  end
  return options
end

-- Returns the position at which a search starts.
local function position_argument(ctx, name)
  if ctx == nil then return 1 end
  if type(ctx) ~= "table" then error("bad argument to " .. name .. " (table expected for ctx)", 3) end
  local position = ctx.pos
  if position == nil then return 1 end
  position = tonumber(position)
  if not position or position ~= position then error("bad argument to " .. name .. " (number expected for ctx.pos)", 3) end
  if position < 1 then return 1 end
  return floor(position)
end

local function captures_of(subject, bounds, names, captures)
  captures = captures or {}
  for group = 0, #bounds / 2 - 1 do
    local from = bounds[2 * group + 1]
    captures[group] = from and sub(subject, from, bounds[2 * group + 2])
  end
  if names then
    for name, group in next, names do captures[name] = captures[group] end
  end
  return captures
end

local function re_match(subject, regex, options, ctx, captures)
  subject, regex = string_argument(subject, "ngx.re.match"), string_argument(regex, "ngx.re.match")
  options = options_argument(options, "ngx.re.match")
  local position = position_argument(ctx, "ngx.re.match")
  local bounds, names, problem = native.search(subject, regex, options, position, true)
  if not bounds then return nil, problem end
  if ctx then ctx.pos = bounds[2] + 1 end
  return captures_of(subject, bounds, names, captures)
end

local function re_find(subject, regex, options, ctx, group)
  subject, regex = string_argument(subject, "ngx.re.find"), string_argument(regex, "ngx.re.find")
  options = options_argument(options, "ngx.re.find")
  local position = position_argument(ctx, "ngx.re.find")
  local bounds, _, problem = native.search(subject, regex, options, position, true)
  if not bounds then return nil, nil, problem end
  if ctx then ctx.pos = bounds[2] + 1 end
  group = group or 0
  if type(group) ~= "number" or group < 0 or group >= #bounds / 2 then return nil, nil, "no such group: nth is too large" end
  return bounds[2 * group + 1] or nil, bounds[2 * group + 2] or nil
end

-- Splits a replacement into texts and the numbers of groups: `$1`, `${1}`; `$$` is a dollar. Returns nil and a message if it is
-- invalid.
local function replacement_parts(text)
  local parts, from = {}, 1
  while true do
    local at = find(text, "$", from, true)
    if not at then break end
    parts[#parts + 1] = sub(text, from, at - 1)
    local _, last, digits = find(text, "^(%d+)", at + 1)
    if not digits then _, last, digits = find(text, "^{(%d+)}", at + 1) end
    if digits then
      parts[#parts + 1] = tonumber(digits)
    elseif sub(text, at + 1, at + 1) == "$" then
      parts[#parts + 1], last = "$", at + 1
    else
      return nil, "bad replacement: write $$ for a dollar, $1 or ${1} for a group; names are not supported"
    end
    from = last + 1
  end
  parts[#parts + 1] = sub(text, from)
  return parts
end

local function replaced(subject, bounds, parts, out)
  for _, part in ipairs(parts) do
    if type(part) == "number" then
      local from = part < #bounds / 2 and bounds[2 * part + 1]
      part = from and sub(subject, from, bounds[2 * part + 2]) or ""
    end
    out[#out + 1] = part
  end
end

-- Replaces the first match, or every match with `all`.
local function substitute(name, all, subject, regex, replacement, options)
  subject, regex = string_argument(subject, name), string_argument(regex, name)
  options = options_argument(options, name)
  local parts, problem
  if type(replacement) ~= "function" then
    parts, problem = replacement_parts(string_argument(replacement, name))
    if not parts then return nil, nil, problem end
  end
  local is_utf8 = find(options, "u", 1, true)
  local out, count, position, copied, size = {}, 0, 1, 1, #subject
  while position <= size + 1 do
    local bounds, names, failed = native.search(subject, regex, options, position, count == 0)
    if failed then return nil, nil, failed end
    if not bounds then break end
    local from, to = bounds[1], bounds[2]
    count = count + 1
    out[#out + 1] = sub(subject, copied, from - 1)
    if parts then
      replaced(subject, bounds, parts, out)
    else
      local text = replacement(captures_of(subject, bounds, names))
      if type(text) ~= "string" and type(text) ~= "number" then
        error("bad argument to " .. name .. " (the function must return a string, not a " .. type(text) .. ")", 2)
      end
      out[#out + 1] = text
    end
    copied, position = to + 1, to + 1
    if not all then break end
    if to < from then
      -- After an empty match continue with the next character, or the same match would be found for ever.
      position = position + 1
      while is_utf8 and position <= size and floor(byte(subject, position) / 64) == 2 do position = position + 1 end
    end
  end
  if count == 0 then return subject, 0 end
  out[#out + 1] = sub(subject, copied)
  return concat(out), count
end

local new_re = copier({
  match = re_match, find = re_find,
  sub = function(...) return substitute("ngx.re.sub", false, ...) end,
  gsub = function(...) return substitute("ngx.re.gsub", true, ...) end,
})

local function string_function(name, call)
  return function(value, ...) return call(string_argument(value, "ngx." .. name), ...) end
end
local function hex(bytes)
  return (gsub(bytes, ".", function(character) return format("%02x", byte(character)) end))
end
local function stamp(pattern)
  return function() return date(pattern, floor(native.now())) end
end
local new_ngx = copier({
  STDERR = 0, EMERG = 1, ALERT = 2, CRIT = 3, ERR = 4, WARN = 5, NOTICE = 6, INFO = 7, DEBUG = 8,
  null = null,
  log = function(number, ...)
    -- `not (...)`, so that NaN (0/0) is refused too.
    if type(number) ~= "number" or not (number >= 0 and number <= 8) then
      error("bad argument to ngx.log (log level expected)", 2)
    end
    native.log(floor(number), text(...))
  end,
  now = function() return floor(native.now() * 1000) / 1000 end,
  time = function() return floor(native.now()) end,
  update_time = function() end,
  today = stamp("!%Y-%m-%d"), localtime = stamp("!%Y-%m-%d %H:%M:%S"), utctime = stamp("!%Y-%m-%d %H:%M:%S"),
  http_time = function(seconds) return date("!%a, %d %b %Y %H:%M:%S GMT", seconds) end,
  encode_base64 = string_function("encode_base64", function(value, bare) return native.encode_base64(value, bare == true) end),
  decode_base64 = string_function("decode_base64", native.decode_base64),
  escape_uri = string_function("escape_uri", native.escape_uri),
  unescape_uri = string_function("unescape_uri", native.unescape_uri),
  md5 = string_function("md5", function(value) return hex(native.md5(value)) end),
  md5_bin = string_function("md5_bin", native.md5),
  sha1_bin = string_function("sha1_bin", native.sha1),
  hmac_sha1 = string_function("hmac_sha1", function(key, value)
    return native.hmac_sha1(key, string_argument(value, "ngx.hmac_sha1"))
  end),
})

local new_kong_log = copier(levels)
local function kong_log(_, ...) levels.notice(...) end

local function one_text(name)
  return function() error(name .. " is not available: a template here is one text, without files and layouts", 2) end
end
local new_template = copier({
  escape = escape, output = output, concat = concat, json = encode,
  echo = function(buffer, ...)
    for i = 1, select("#", ...) do buffer[#buffer + 1] = tostring((select(i, ...))) end
  end,
  include = one_text("include"), layout = one_text("layout"),
})

local function new() return {} end
local function clear(target)
  for key in next, target do target[key] = nil end
end
local function nkeys(target)
  local count = 0
  for _ in next, target do count = count + 1 end
  return count
end

-- Returns new globals, and the environment of templates, in which the context comes first.
local function make(where, seed, context)
  place = where
  randomseed(seed)
  for key in next, array do array[key] = nil end
  for key in next, empty_array do empty_array[key] = nil end
  reset(cjson_settings)
  reset(safe_settings)
  local string, table, math, bit, coroutine = new_string(), new_table(), new_math(), new_bit(), new_coroutine()
  strings.__index = string
  local os, cjson = setmetatable(new_os(), {__index = no_os}), setmetatable(new_cjson(), {__index = no_cjson})
  cjson.empty_array = marked_list()
  local ngx = setmetatable(new_ngx(), {__index = no_ngx})
  ngx.re = setmetatable(new_re(), {__index = no_re})
  local log = setmetatable(new_kong_log(), {__index = no_kong_log, __call = kong_log})
  local globals = {
    assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next, pairs = pairs, pcall = pcall,
    rawequal = rawequal, rawget = rawget, rawset = rawset, select = select, setmetatable = setmetatable,
    tonumber = tonumber, tostring = tostring, type = type, unpack = unpack, xpcall = xpcall, _VERSION = _VERSION,
    string = string, table = table, math = math, bit = bit, coroutine = coroutine, os = os, cjson = cjson,
    ngx = ngx, kong = setmetatable({log = log}, {__index = no_kong}),
    print = levels.notice, _G = true, require = true,
  }
  globals._G = globals
  -- Created on first use, because few scripts use `require`.
  local modules
  globals.require = function(name)
    if not modules then
      local safe = setmetatable(new_safe(), {__index = no_safe})
      safe.empty_array = cjson.empty_array
      modules = {
        cjson = cjson, ["cjson.safe"] = safe, bit = bit, string = string, table = table, math = math, os = os,
        coroutine = coroutine, ["table.new"] = new, ["table.clear"] = clear, ["table.nkeys"] = nkeys,
      }
    end
    local module = modules[name]
    if module == nil then error("module '" .. tostring(name) .. "' is not available in " .. place, 2) end
    return module
  end
  if context == nil then return globals, globals end

  local template = setmetatable(new_template(), {__index = no_template})
  local environment = setmetatable({template = template, context = context}, {__index = function(self, key)
    local members = rawget(self, "context")
    -- `or`, like the library: a false member counts as missing.
    return type(members) == "table" and members[key] or rawget(template, key) or globals[key]
  end})
  return globals, environment
end

local function run(chunk, ...)
  local lambda = chunk()
  if type(lambda) ~= "function" then
    error("lambda: the text returns a " .. type(lambda) .. ", and must return a function (data, event, source, pid)", 0)
  end
  return lambda(...)
end

local function result(done, value)
  if done then return true, value end
  return false, explain(value, place)
end

local function call(...) return result(pcall(run, ...)) end
local function render(chunk) return result(pcall(chunk)) end

-- Converts an error object to text.
local function describe(value)
  local kind = type(value)
  if kind == "nil" or kind == "boolean" or kind == "number" then return "it raised " .. tostring(value) end
  local done, shown = pcall(tostring, value)
  if done and type(shown) == "string" and sub(shown, 1, #kind + 2) ~= kind .. ": " then return shown end
  return "it raised a " .. kind .. " without a message"
end

return make, call, render, describe
