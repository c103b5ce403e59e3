-- What a script finds. Run once in an interpreter; `make` is run for every call and makes all tables that a script can
-- reach anew: what one call sets is gone in the next. Local names, because a script must not be able to change them.
local native = ...
local null, array = native.null, native.array
local assert, error, getmetatable, ipairs, next, pairs, pcall = assert, error, getmetatable, ipairs, next, pairs, pcall
local rawequal, rawget, rawset, select, setmetatable = rawequal, rawget, rawset, select, setmetatable
local tonumber, tostring, type, unpack, xpcall, _VERSION = tonumber, tostring, type, unpack, xpcall, _VERSION
local concat, gsub, floor = table.concat, string.gsub, math.floor
local clock, date, difftime, time = os.clock, os.date, os.difftime, os.time
local randomseed = math.randomseed

-- A library without some of its functions.
local function without(library, ...)
  local kept = {}
  for name, value in pairs(library) do kept[name] = value end
  for i = 1, select("#", ...) do kept[select(i, ...)] = nil end
  return kept
end
local libraries = {
  string = without(string, "dump"), table = without(table), math = without(math),
  bit = without(bit), coroutine = without(coroutine),
}

-- A script that could reach it would change the strings of the next call.
local strings = getmetatable("")
strings.__metatable = false

-- Names that scripts of gateways use and that are nil here: their failure says so.
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
local html_and_braces = without(html)
html_and_braces["{"], html_and_braces["}"] = "&#123;", "&#125;"

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

-- Fails with the name of what is not there.
local function only(name, members)
  return setmetatable(members, {__index = function(_, key)
    error(name .. "." .. tostring(key) .. " is not available in " .. place, 2)
  end})
end

local function make_cjson()
  local function encode(value) return checked(native.encode(value)) end
  local function decode(value) return checked(native.decode(string_argument(value, "decode"))) end
  local shared = {null = null, array_mt = array, empty_array_mt = array, _NAME = "cjson"}
  shared.empty_array = setmetatable({}, array)
  local safe = without(shared)
  shared.encode, shared.decode = encode, decode
  safe.encode = function(value) return native.encode(value) end
  safe.decode = function(value)
    if type(value) ~= "string" then return nil, "bad argument to decode (string expected, got " .. type(value) .. ")" end
    return native.decode(value)
  end
  return only("cjson", shared), only("cjson.safe", safe)
end

local function make_ngx()
  local function string_function(name, call)
    return function(value, ...) return call(string_argument(value, "ngx." .. name), ...) end
  end
  local function hex(bytes)
    return (gsub(bytes, ".", function(byte) return libraries.string.format("%02x", libraries.string.byte(byte)) end))
  end
  local function now() return floor(native.now() * 1000) / 1000 end
  local function stamp(format)
    return function() return date(format, floor(native.now())) end
  end
  return only("ngx", {
    STDERR = 0, EMERG = 1, ALERT = 2, CRIT = 3, ERR = 4, WARN = 5, NOTICE = 6, INFO = 7, DEBUG = 8,
    null = null,
    log = function(number, ...)
      if type(number) ~= "number" or number < 0 or number > 8 then error("bad argument to ngx.log (log level expected)", 2) end
      native.log(floor(number), text(...))
    end,
    now = now,
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
end

local function make_kong()
  local log = only("kong.log", without(levels))
  getmetatable(log).__call = function(_, ...) levels.notice(...) end
  return only("kong", {log = log})
end

local function new() return {} end
local function clear(target)
  for key in next, target do target[key] = nil end
end
local function nkeys(target)
  local count = 0
  for _ in next, target do count = count + 1 end
  return count
end

-- Fresh globals, and the environment of templates, which sees the context first.
local function make(where, context)
  place = where
  randomseed(native.seed())
  for key in next, array do array[key] = nil end
  local string, table, math = without(libraries.string), without(libraries.table), without(libraries.math)
  local bit, coroutine = without(libraries.bit), without(libraries.coroutine)
  strings.__index = string
  local os = only("os", {clock = clock, date = date, difftime = difftime, time = time})
  local cjson, safe = make_cjson()
  local modules = {
    cjson = cjson, ["cjson.safe"] = safe, bit = bit, string = string, table = table, math = math, os = os,
    coroutine = coroutine, ["table.new"] = new, ["table.clear"] = clear, ["table.nkeys"] = nkeys,
  }
  local globals = {
    assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next, pairs = pairs, pcall = pcall,
    rawequal = rawequal, rawget = rawget, rawset = rawset, select = select, setmetatable = setmetatable,
    tonumber = tonumber, tostring = tostring, type = type, unpack = unpack, xpcall = xpcall, _VERSION = _VERSION,
    string = string, table = table, math = math, bit = bit, coroutine = coroutine, os = os, cjson = cjson,
    ngx = make_ngx(), kong = make_kong(), print = levels.notice,
  }
  globals._G = globals
  globals.require = function(name)
    local module = modules[name]
    if module == nil then error("module '" .. tostring(name) .. "' is not available in " .. place, 2) end
    return module
  end
  if context == nil then return globals, globals end

  local function one_text(name)
    return function() error(name .. " is not available: a template here is one text, without files and layouts", 2) end
  end
  local template = only("template", {
    escape = escape, output = output, concat = concat,
    json = function(value) return checked(native.encode(value)) end,
    echo = function(buffer, ...)
      for i = 1, select("#", ...) do buffer[#buffer + 1] = tostring((select(i, ...))) end
    end,
    include = one_text("include"), layout = one_text("layout"),
  })
  local environment = setmetatable({template = template, context = context}, {__index = function(self, key)
    local seen = rawget(self, "context")
    -- `or`, as the library has it: a false member is as good as none.
    return type(seen) == "table" and seen[key] or rawget(template, key) or globals[key]
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

local function told(done, value)
  if done then return true, value end
  return false, explain(value, place)
end

local function call(...) return told(pcall(run, ...)) end
local function render(chunk) return told(pcall(chunk)) end

-- What an error object is, in words.
local function describe(value)
  local kind = type(value)
  if kind == "nil" or kind == "boolean" or kind == "number" then return "it raised " .. tostring(value) end
  local done, shown = pcall(tostring, value)
  if done and type(shown) == "string" and sub(shown, 1, #kind + 2) ~= kind .. ": " then return shown end
  return "it raised a " .. kind .. ", which says nothing"
end

return make, call, render, describe
