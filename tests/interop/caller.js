// A caller of the payment service on grpc-js and grpc-js-xds: the twin of caller.py, which says what the commands are.
//
// `GRPC_XDS_BOOTSTRAP=FILE NODE_PATH=MODULES node caller.js xds:///payment-service PATH-OF-payment.proto`

'use strict';

const readline = require('node:readline');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const xds = require('@grpc/grpc-js-xds');

// The same limits as caller.py.
const CALL_LIMIT_MS = 10_000;
const STREAK = 20;
const LOAD_LIMIT_MS = 600_000;

xds.register();
const [target, proto] = process.argv.slice(2);
const { Payment } = grpc.loadPackageDefinition(loader.loadSync(proto)).payment.v1;
const credentials = new xds.XdsChannelCredentials(grpc.credentials.createInsecure());
const client = new Payment(target, credentials);

let tally, stopped, workers;
let awaited = { since: Infinity, version: '', streak: 0, done: () => {} };

const count = (counts, key) => (counts[key] = (counts[key] ?? 0) + 1);

const call = (id) =>
  new Promise((resolve) => {
    const began = performance.now();
    client.charge({ id, amount: 100 }, { deadline: Date.now() + CALL_LIMIT_MS }, (error, reply) => {
      if (error) {
        tally.failed += 1;
        count(tally.errors, `${grpc.status[error.code]}: ${error.details}`);
      } else {
        tally.ok += 1;
        count(tally.by, reply.version);
        if (began >= awaited.since) {
          awaited.streak = reply.version === awaited.version ? awaited.streak + 1 : 0;
          if (awaited.streak === STREAK) awaited.done();
        }
      }
      resolve();
    });
  });

const run = (limit, atOnce) => {
  tally = { ok: 0, failed: 0, by: {}, errors: {} };
  stopped = false;
  let next = 0;
  const end = performance.now() + LOAD_LIMIT_MS;
  const work = async () => {
    while (!stopped && next < limit && performance.now() < end) await call(String(next++));
  };
  workers = Promise.all(Array.from({ length: atOnce }, work));
};

const until = (version, limit) =>
  new Promise((resolve) => {
    const since = performance.now();
    const answer = (seen) => {
      clearTimeout(timer);
      resolve({ seen, ms: Math.round((performance.now() - since) * 10) / 10 });
    };
    const timer = setTimeout(() => answer(false), limit * 1000);
    awaited = { since, version, streak: 0, done: () => answer(true) };
  });

const commands = {
  calls: async (command) => {
    run(command.count, command.at_once);
    await workers;
    return tally;
  },
  start: async (command) => {
    run(Infinity, command.at_once);
    return {};
  },
  await: (command) => until(command.version, command.limit),
  stop: async () => {
    stopped = true;
    await workers;
    return tally;
  },
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    console.log(JSON.stringify(await commands[command.do](command)));
  }
  process.exit(0);
})();
