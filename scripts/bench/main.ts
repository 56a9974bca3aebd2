/**
 * `bun run bench chat`: measures a private Skein on this machine and prints every figure beside its goal and beside the
 * yardstick, for machines differ. `bun run bench mq`: the queue by itself, beside the bare commands and a peer. `--quick` for a
 * look, `--json` for a record.
 */

import { defineCommand, runMain } from "citty";
import { type BenchLevel, benchChat, SECTIONS, type Section } from "./chat.ts";
import { benchMq, MQ_SECTIONS, type MqSection } from "./mq.ts";

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

/** Keeps the order of `allowed`; exits with 2 on a word that is not among them. */
function listOf<T extends string>(name: string, text: string, allowed: readonly T[]): T[] {
  const words = text.split(",").map((word) => word.trim());
  const unknown = words.find((word) => !(allowed as readonly string[]).includes(word));
  if (unknown === undefined) return allowed.filter((word) => words.includes(word));
  console.error(`--${name}: "${unknown}" is not one of ${allowed.join(", ")}`);
  process.exit(2);
}

await runMain(
  defineCommand({
    meta: { name: "bench", description: "Measure a private Skein on this machine" },
    subCommands: { chat, mq },
  }),
);
