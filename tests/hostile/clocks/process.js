// Tried: what Node's modules tell of time: process, os, timers, http's Date header, v8.
// Must be seen: all the same before and after burning CPU.
import process from 'node:process';
import os from 'node:os';
import http from 'node:http';
import util from 'node:util';
import { createRequire } from 'node:module';
const burn = () => { let sum = 0; for (let i = 0; i < 4e7; i += 1) sum += i; return sum; };
const require = createRequire('/x.js');
const { hrtime } = process;
const attempt = (call) => { try { return call(); } catch (error) { return error.message; } };

function header() {
  const message = new http.OutgoingMessage();
  message.sendDate = true;
  message._storeHeader?.('HTTP/1.1 200 OK\r\n', {});
  return String(message._header);
}

function read() {
  return {
    hrtime: process.hrtime(),
    bigint: String(process.hrtime.bigint()),
    detached: String(hrtime.bigint()),
    difference: process.hrtime([1, 1]),
    required: String(require('node:process').hrtime.bigint()),
    builtin: String(process.getBuiltinModule('node:process').hrtime.bigint()),
    uptime: process.uptime(),
    cpu: attempt(() => process.cpuUsage()),
    resources: attempt(() => process.resourceUsage()),
    osUptime: attempt(() => os.uptime()),
    load: os.loadavg(),
    cpus: os.cpus(),
    header: attempt(header),
    shown: util.inspect(new Date()),
  };
}

export default {
  fetch() {
    const before = read();
    burn();
    return Response.json({ before, after: read() });
  },
};
