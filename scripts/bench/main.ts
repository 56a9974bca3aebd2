/**
 * `bun run bench chat`: measures a private Skein on this machine and prints every figure beside its goal and beside the
 * yardstick, for machines differ. `bun run bench mq`: the queue by itself, beside the bare commands and a peer. `bun run bench
 * fanout`: groups by their size. `bun run bench archive`: a store of history. `--quick` for a look, `--json` for a record.
 */

import { existsSync } from "node:fs";
import { defineCommand, runMain } from "citty";
import { LIMITS } from "../../lib/im/index.ts";
import { benchArchive } from "./archive.ts";
import { type BenchLevel, benchChat, SECTIONS, type Section } from "./chat.ts";
import { benchFanout, FANOUT_SIZES } from "./fanout.ts";
import { FANOUT_FULL, FANOUT_QUICK } from "./goals.ts";
import { benchMq, MQ_SECTIONS, type MqSection } from "./mq.ts";

/** Of each kind: the p99 is the tenth worst. */
const CALLS = 1_000;
/** Fewer make no conversations to speak of. */
const MESSAGES_MIN = 10_000;
/** An hour of filling. */
const MESSAGES_MAX = 100_000_000;

const LEVELS: readonly BenchLevel[] = ["memory", "disk"];

const chat = defineCommand({
  meta: { name: "chat", description: "Yardstick, commit ceiling, throughput, latency, fan-out, memory" },
  args: {
    quick: { type: "boolean", default: false, description: "Short runs, 1 000 idle connections" },
    json: { type: "boolean", default: false, description: "Print the figures as JSON when done" },
    only: { type: "string", default: SECTIONS.join(","), description: "Parts to run" },
    level: { type: "string", default: LEVELS.join(","), description: "Ack levels to measure at" },
    profile: {
      type: "boolean",
      default: false,
      description: "Print where each process spends its time (slows it down)",
    },
  },
  async run({ args }) {
    const result = await benchChat({
      isQuick: args.quick,
      sections: listOf<Section>("only", args.only, SECTIONS),
      levels: listOf<BenchLevel>("level", args.level, LEVELS),
      isProfiling: args.profile,
      print: args.json ? (line) => console.error(line) : (line) => console.log(line),
    });
    if (args.json) console.log(JSON.stringify(result, null, 2));
  },
});

const mq = defineCommand({
  meta: { name: "mq", description: "The queue's rates beside raw stream commands and BullMQ" },
  args: {
    quick: { type: "boolean", default: false, description: "Fewer messages, single runs" },
    json: { type: "boolean", default: false, description: "Print the figures as JSON when done" },
    only: { type: "string", default: MQ_SECTIONS.join(","), description: "Parts to run" },
    level: { type: "string", default: "memory", description: "Ack levels to measure at: memory,disk" },
  },
  async run({ args }) {
    const result = await benchMq({
      isQuick: args.quick,
      sections: listOf<MqSection>("only", args.only, MQ_SECTIONS),
      levels: listOf<BenchLevel>("level", args.level, LEVELS),
      print: args.json ? (line) => console.error(line) : (line) => console.log(line),
    });
    if (args.json) console.log(JSON.stringify(result, null, 2));
  },
});

const fanout = defineCommand({
  meta: { name: "fanout", description: "Groups of 10 to 10 000 and a channel: deliveries/s, p99, CPU per delivery" },
  args: {
    quick: { type: "boolean", default: false, description: "Short runs" },
    sizes: { type: "string", default: FANOUT_SIZES.join(","), description: "Members of the groups" },
    json: { type: "boolean", default: false, description: "Print the figures as JSON when done" },
    profile: {
      type: "boolean",
      default: false,
      description: "Print where each process spends its time (slows it down)",
    },
  },
  async run({ args }) {
    const result = await benchFanout({
      sizes: args.sizes.split(",").map((size) => numberOf("sizes", size, 2, LIMITS.membersPerGroup)),
      scale: args.quick ? FANOUT_QUICK : FANOUT_FULL,
      isProfiling: args.profile,
      print: args.json ? (line) => console.error(line) : (line) => console.log(line),
    });
    if (args.json) console.log(JSON.stringify(result, null, 2));
  },
});

const archive = defineCommand({
  meta: { name: "archive", description: "An archive of months: rows/s, size, history at any depth, search" },
  args: {
    logs: {
      type: "positional",
      required: false,
      description: "Chat logs whose lines are said (default: made-up words)",
    },
    messages: { type: "string", default: "1000000", description: "How many entries it is filled with" },
    url: { type: "string", description: "An empty PostgreSQL database to fill instead, postgres://…" },
    quick: { type: "boolean", default: false, description: "A tenth of the calls" },
    json: { type: "boolean", default: false, description: "Print the figures as JSON when done" },
  },
  async run({ args }) {
    const missing = args._.find((file) => !existsSync(file));
    if (missing !== undefined) exitWith(`there is no file ${missing}`);
    const messages = numberOf("messages", args.messages, MESSAGES_MIN, MESSAGES_MAX);
    const result = await benchArchive({
      messages,
      logs: args._,
      url: args.url,
      calls: args.quick ? CALLS / 10 : CALLS,
      print: args.json ? (line) => console.error(line) : (line) => console.log(line),
    });
    if (args.json) console.log(JSON.stringify(result, null, 2));
  },
});

/** Keeps the order of `allowed`; exits with 2 on a word that is not among them. */
function listOf<T extends string>(name: string, text: string, allowed: readonly T[]): T[] {
  const words = text.split(",").map((word) => word.trim());
  const unknown = words.find((word) => !(allowed as readonly string[]).includes(word));
  if (unknown === undefined) return allowed.filter((word) => words.includes(word));
  return exitWith(`--${name}: "${unknown}" is not one of ${allowed.join(", ")}`);
}

/** A whole number between them, or exits. */
function numberOf(name: string, text: string, min: number, max: number): number {
  const number = Number(text);
  if (Number.isSafeInteger(number) && number >= min && number <= max) return number;
  return exitWith(`--${name}: "${text}" is no whole number from ${min} to ${max}`);
}

function exitWith(message: string): never {
  console.error(message);
  process.exit(2);
}

await runMain(
  defineCommand({
    meta: { name: "bench", description: "Measure a private Skein on this machine" },
    subCommands: { chat, fanout, mq, archive },
  }),
);
