/**
 * `skein replay <logs…>`: real chat through Skein, with edits, recalls, reactions, reads and typing mixed in, and the proof from
 * outside that nothing was lost, doubled or reordered, and that everybody holds the same conversation in the end. On a private Skein
 * of its own, every role in a process, unless `--url` names one that runs.
 */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { defineCommand } from "citty";
import { readConfig } from "../../lib/config.ts";
import { readRun } from "../../lib/data-dir.ts";
import { loadSecrets } from "../../lib/secrets.ts";
import { type PrivateSkein, startSkein } from "../harness.ts";
import { DEVICES } from "../replay/crowd.ts";
import type { KillOrder, Victim } from "../replay/kills.ts";
import { createProgress } from "../replay/progress.ts";
import { renderReport } from "../replay/report.ts";
import { type ReplayTarget, replay as run } from "../replay/run.ts";
import { Failure } from "./running.ts";

const GATEWAYS_MAX = 16;
const KILLS_MAX = 100;
const SEED_LIMIT = 2 ** 31;
const TARGETS = ["gateway", "logic", "archive", "orders", "trades", "ads", "redis"];

export const replay = defineCommand({
  meta: { name: "replay", description: "Replay IRC logs as chat and check from outside that nothing differs" },
  args: {
    logs: {
      type: "positional",
      description: "Log files: lines of `[03:10] <nick> text` and `=== nick … has joined`",
      required: true,
    },
    speed: { type: "string", default: "max", description: "max, or log time over wall time, e.g. 1 or 60" },
    gateways: { type: "string", default: "2", description: "Gateway processes of the private Skein" },
    url: {
      type: "string",
      description: "Use the running Skein at these URLs (comma) and on the settings' data dir instead",
    },
    kill: { type: "string", description: `kill -9 these meanwhile (comma): ${TARGETS.join(", ")}` },
    kills: { type: "string", default: "3", description: "How many times each" },
    mix: { type: "string", default: "0.2", description: "Share of the lines that edits, recalls, reactions, … follow" },
    devices: { type: "string", default: "2", description: "Of each user, 1 or 2; the second is offline half the time" },
    seed: { type: "string", description: "Of all that is drawn (default: random, printed)" },
    json: { type: "boolean", default: false, description: "Print the result as JSON" },
    keep: { type: "boolean", default: false, description: "Keep the private Skein's data dir and say where it is" },
  },
  async run({ args }) {
    const files = args._;
    for (const file of files) if (!existsSync(file)) throw new Failure(`there is no file ${file}`);
    const seed = args.seed === undefined ? randomSeed() : numberOf("seed", args.seed, 0, SEED_LIMIT - 1, true);
    const mix = numberOf("mix", args.mix, 0, 1);
    const devices = numberOf("devices", args.devices, 1, DEVICES.length, true);
    const kills = args.kill === undefined ? undefined : killOrder(args.kill, args.kills, seed);
    const speed = args.speed === "max" ? 0 : numberOf("speed", args.speed, Number.MIN_VALUE, 1_000_000);
    const gateways = numberOf("gateways", args.gateways, 1, GATEWAYS_MAX, true);
    if (kills) console.error(`killing ${kills.targets.join(", ")} ${kills.times} times each, seed ${kills.seed}`);

    const skein = args.url === undefined ? await startPrivate(gateways, args.keep) : undefined;
    const progress = createProgress(process.stderr);
    try {
      const target = skein ? targetOf(skein) : attach(args.url!.split(","));
      const result = await run(target, { files, speed, mix, devices, seed, kills, progress });
      console.log(args.json ? JSON.stringify(result, null, 2) : renderReport(result));
      if (!result.isClean) process.exitCode = 1;
    } finally {
      progress.end();
      if (skein && args.keep) console.error(`kept: ${skein.dataDir}`);
      await skein?.stop();
    }
  },
});

/** One user says thousands of lines in a few seconds: limits that a log at full speed does not meet. */
const UNLIMITED = "1000000";

function startPrivate(gateways: number, keep: boolean): Promise<PrivateSkein> {
  return startSkein({
    roles: [`gateway=${gateways}`, "logic", "archive", "scheduler", "orders", "trades", "ads"],
    processes: true,
    env: { SKEIN_SEND_RATE: UNLIMITED, SKEIN_SEND_BURST: UNLIMITED },
    keep,
  });
}

function targetOf(skein: PrivateSkein): ReplayTarget {
  const { urls, serviceKey, dataDir } = skein;
  return { urls, serviceKey, dataDir, processes: () => victimsOf(skein.pids()) };
}

function attach(urls: readonly string[]): ReplayTarget {
  const config = readConfig();
  const { dataDir } = config;
  return {
    urls: urls.map((url) => url.replace(/\/$/, "")),
    serviceKey: loadSecrets(config).serviceKey,
    dataDir: existsSync(join(dataDir, "archive.db")) ? dataDir : undefined,
    processes: () => victimsOf(readRun(dataDir)?.pids ?? {}),
  };
}

/** Units are named by their role, with a number behind it where there are several. */
function victimsOf(pids: Readonly<Record<string, number>>): Victim[] {
  return Object.entries(pids).map(([name, pid]) => ({ role: name.replace(/[-.]?\d+$/, ""), name, pid }));
}

const randomSeed = () => Math.floor(Math.random() * SEED_LIMIT);

function killOrder(targets: string, times: string, seed: number): KillOrder {
  const names = targets.split(",").map((name) => name.trim());
  const unknown = names.find((name) => !TARGETS.includes(name));
  if (unknown !== undefined) throw new Failure(`--kill: "${unknown}" is not one of ${TARGETS.join(", ")}`);
  return { targets: names, times: numberOf("kills", times, 1, KILLS_MAX, true), seed };
}

function numberOf(name: string, text: string, min: number, max: number, isWhole = false): number {
  const value = Number(text);
  if (value >= min && value <= max && (!isWhole || Number.isInteger(value))) return value;
  const lowest = isWhole ? `a whole number from ${min}` : min > 0 ? "above 0" : "from 0";
  throw new Failure(`--${name} must be ${lowest} to ${max}, not "${text}"`);
}
