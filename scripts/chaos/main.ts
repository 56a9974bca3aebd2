/**
 * `bun run chaos <campaign>`: breaks a private Skein on purpose while messages flow, and judges from outside whether a promise was
 * broken. Prints the seed, the outcomes and the verdict; exits with 1 when anything but zeros is found.
 */

import { defineCommand, runMain } from "citty";
import { runBroadcastCampaign } from "./broadcast-campaign.ts";
import { type CampaignName, runCampaign } from "./campaign.ts";
import { runDelayedCampaign } from "./delayed-campaign.ts";
import { runHalfCampaign } from "./half-campaign.ts";
import { runMqCampaign } from "./mq-campaign.ts";

const SEED_LIMIT = 2 ** 31;

const campaign = (name: CampaignName, description: string, cycles: number) =>
  defineCommand({
    meta: { name, description },
    args: {
      cycles: { type: "string", default: String(cycles), description: "Faults to inject" },
      seed: { type: "string", description: "Repeats the choices of an earlier run (default: random)" },
      json: { type: "boolean", default: false, description: "Print the result as JSON" },
      keep: { type: "boolean", default: false, description: "Keep the data dir and the evidence" },
    },
    async run({ args }) {
      const cycleCount = wholeNumber("cycles", args.cycles, 1, 10_000);
      const seed = seedOf(args.seed);
      const result = await runCampaign({
        campaign: name,
        cycles: cycleCount,
        seed,
        keep: args.keep,
        print: args.json ? (line) => console.error(line) : (line) => console.log(line),
      });
      if (args.json) console.log(JSON.stringify(result, null, 2));
      process.exitCode = result.isClean ? 0 : 1;
    },
  });

interface CountedOptions {
  readonly count: number;
  readonly seed: number;
  readonly keep: boolean;
  readonly print: (line: string) => void;
}

const counted = (
  name: string,
  description: string,
  what: string,
  runCounted: (options: CountedOptions) => Promise<{ readonly isClean: boolean }>,
) =>
  defineCommand({
    meta: { name, description },
    args: {
      count: { type: "string", default: "10000", description: what },
      seed: { type: "string", description: "Repeats the choices of an earlier run (default: random)" },
      json: { type: "boolean", default: false, description: "Print the result as JSON" },
      keep: { type: "boolean", default: false, description: "Keep the data dir and the evidence" },
    },
    async run({ args }) {
      const result = await runCounted({
        count: wholeNumber("count", args.count, 1, 1_000_000),
        seed: seedOf(args.seed),
        keep: args.keep,
        print: args.json ? (line) => console.error(line) : (line) => console.log(line),
      });
      if (args.json) console.log(JSON.stringify(result, null, 2));
      process.exitCode = result.isClean ? 0 : 1;
    },
  });

const mq = defineCommand({
  meta: { name: "mq", description: "kill -9 and SIGSTOP of producers and group members over failing handlers" },
  args: {
    messages: { type: "string", default: "100000", description: "Messages to publish" },
    keys: { type: "string", default: "100", description: "Order keys" },
    seed: { type: "string", description: "Repeats the choices of an earlier run (default: random)" },
    json: { type: "boolean", default: false, description: "Print the result as JSON" },
    keep: { type: "boolean", default: false, description: "Keep the data dir and the evidence" },
  },
  async run({ args }) {
    const result = await runMqCampaign({
      messages: wholeNumber("messages", args.messages, 1, 10_000_000),
      keys: wholeNumber("keys", args.keys, 1, 100_000),
      seed: seedOf(args.seed),
      keep: args.keep,
      print: args.json ? (line) => console.error(line) : (line) => console.log(line),
    });
    if (args.json) console.log(JSON.stringify(result, null, 2));
    process.exitCode = result.isClean ? 0 : 1;
  },
});

const broadcast = defineCommand({
  meta: { name: "broadcast", description: "kill -9 of extlogics while a message goes to everybody and people chat" },
  args: {
    users: { type: "string", default: "100000", description: "Users to send to" },
    "per-second": { type: "string", default: "3000", description: "The broadcast's rate" },
    kills: { type: "string", default: "3", description: "Extlogics to kill" },
    seed: { type: "string", description: "Repeats the choices of an earlier run (default: random)" },
    json: { type: "boolean", default: false, description: "Print the result as JSON" },
    keep: { type: "boolean", default: false, description: "Keep the data dir" },
  },
  async run({ args }) {
    const result = await runBroadcastCampaign({
      users: wholeNumber("users", args.users, 1, 1_000_000),
      perSecond: wholeNumber("per-second", args["per-second"], 1, 5_000),
      kills: wholeNumber("kills", args.kills, 0, 100),
      seed: seedOf(args.seed),
      keep: args.keep,
      print: args.json ? (line) => console.error(line) : (line) => console.log(line),
    });
    if (args.json) console.log(JSON.stringify(result, null, 2));
    process.exitCode = result.isClean ? 0 : 1;
  },
});

function seedOf(text: string | undefined): number {
  return text === undefined ? Math.floor(Math.random() * SEED_LIMIT) : wholeNumber("seed", text, 0, SEED_LIMIT - 1);
}

function wholeNumber(name: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  console.error(`--${name} must be a whole number from ${min} to ${max}, not "${text}"`);
  process.exit(2);
}

await runMain(
  defineCommand({
    meta: { name: "chaos", description: "Break a private Skein on purpose and judge it from outside" },
    subCommands: {
      "redis-kill": campaign("redis-kill", "kill -9 of Redis under load, at ack level disk", 30),
      "worker-kill": campaign("worker-kill", "kill -9 of gateways, logic, archive and the examples at random", 30),
      "worker-pause": campaign("worker-pause", "SIGSTOP of one of them for longer than its lease", 10),
      delayed: counted(
        "delayed",
        "kill -9 of schedulers and Redis over delayed messages, one clock an hour ahead",
        "Messages to publish",
        runDelayedCampaign,
      ),
      half: counted(
        "half",
        "kill -9 of producers, checking members and Redis over half messages",
        "Half messages to prepare",
        runHalfCampaign,
      ),
      mq,
      broadcast,
    },
  }),
);
