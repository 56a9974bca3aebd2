/**
 * One campaign from start to verdict:
 *
 *   warm ──► faults (one cycle each: strike, come back, acknowledge again) ──► heal ──► drain ──► check
 *
 * The Skein is private, at ack level `disk`, every role in a process of its own. The generator and the checker are processes of
 * their own, too: what they know they know from outside.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createApi, inParallel } from "../load/api.ts";
import type { CheckOrder, CheckResult } from "./check.ts";
import { type CampaignName, strike } from "./faults.ts";
import { type GeneratorProcess, startGenerator } from "./generator-process.ts";
import type { Counts } from "./lane.ts";
import { createRandom } from "./random.ts";
import { startVictim, type VictimSkein } from "./skein.ts";

export type { CampaignName } from "./faults.ts";

export interface CampaignOptions {
  readonly campaign: CampaignName;
  readonly cycles: number;
  readonly seed: number;
  /** Keeps the data dir and the evidence, and says where. */
  readonly keep: boolean;
  /** Acknowledgements that each cycle must see before the next fault. */
  readonly acksPerCycle?: number;
  /** Mean pause of each of the 90 lanes between two messages. */
  readonly pauseMs?: number;
  readonly print: (line: string) => void;
}

export interface CampaignResult extends CheckResult {
  readonly campaign: CampaignName;
  readonly seed: number;
  readonly cycles: number;
  readonly faults: readonly string[];
  /** The longest time without any acknowledgement in a cycle. */
  readonly silenceMs: { readonly median: number; readonly max: number };
  readonly seconds: number;
  readonly isClean: boolean;
}

/** 30 cycles make the 30 000 acknowledged sends that the goal asks for. */
const ACKS_PER_CYCLE = 1_050;
const WARM_ACKS = 500;
/** Direct pairs, and groups of five: each member of each is a lane, 90 in all. */
const DIRECTS = 20;
const GROUPS = 10;
const GROUP_SIZE = 5;
/** Mean pause of a lane between two messages: some 1 500 sends a second, so that a run is not longer than its faults. */
const PAUSE_MS = 40;
/** A fault after so long at most from the moment that the cycle has its acks: it falls at any point of the servers' periods. */
const STRIKE_DELAY_MS = 300;
/** No acknowledgement for so long after a strike is a failure: nothing may need a human. */
const RECOVERY_MS = 30_000;
const POLL_MS = 10;
/** Characters of the log that are printed when a campaign does not get through. */
const LOG_SHOWN = 8_000;

/** Runs one campaign. Throws, with the end of the Skein's log, when it does not get through: nothing may need a human. */
export async function runCampaign(options: CampaignOptions): Promise<CampaignResult> {
  const { campaign, cycles, seed, keep, print, acksPerCycle = ACKS_PER_CYCLE, pauseMs = PAUSE_MS } = options;
  const startedMs = performance.now();
  const random = createRandom(seed);
  const folder = mkdtempSync(join(tmpdir(), `skein-chaos-${campaign}-`));
  const evidencePath = join(folder, "evidence.jsonl");
  print(`${campaign}: ${cycles} cycles, seed ${seed}${keep ? `, in ${folder}` : ""}`);
  const skein = await startVictim(campaign, join(folder, "data"));
  let generator: GeneratorProcess | undefined;
  try {
    generator = startGenerator({ seed, evidencePath, ...(await prepare(skein)), pauseMs });
    await acks(generator, Math.min(WARM_ACKS, acksPerCycle), "warming up");
    print(`warm: ${generator.counts.ok} acknowledged`);
    const faults: string[] = [];
    const silences: number[] = [];
    for (let cycle = 1; cycle <= cycles; cycle++) {
      await Bun.sleep(random.next() * STRIKE_DELAY_MS);
      const before = generator.counts.ok;
      generator.takeSilenceMs();
      const fault = await strike(campaign, { random, processes: skein.processes, leaseMs: skein.leaseMs });
      await acks(generator, Math.max(1, before + acksPerCycle - generator.counts.ok), `after ${fault}`);
      faults.push(fault);
      silences.push(generator.takeSilenceMs());
      const acknowledged = generator.counts.ok - before;
      print(`cycle ${cycle}: ${fault}; ${acknowledged} acknowledged, none for ${Math.round(silences.at(-1)!)} ms`);
    }
    await skein.healthy();
    await acks(generator, acksPerCycle, "healed");
    const counts = await generator.settle();
    print(`settled: ${describe(counts)}`);
    if (generator.refusals.length > 0) throw new Error(`connections were refused: ${generator.refusals.join("; ")}`);
    const result = await check(evidencePath, skein);
    printResult(result, print);
    silences.sort((a, b) => a - b);
    const silence = { median: silences[Math.floor(silences.length / 2)] ?? 0, max: silences.at(-1) ?? 0 };
    print(`silence:  ${Math.round(silence.median)} ms at the median, ${Math.round(silence.max)} ms at most`);
    return {
      campaign,
      seed,
      cycles,
      faults,
      silenceMs: silence,
      seconds: (performance.now() - startedMs) / 1_000,
      ...result,
    };
  } catch (error) {
    print(skein.output().slice(-LOG_SHOWN));
    throw error;
  } finally {
    await generator?.kill();
    await skein.stop();
    if (!keep) rmSync(folder, { recursive: true, force: true });
  }
}

/** Waits for `more` further acknowledgements. Throws when none at all comes for RECOVERY_MS: that period had zero acks. */
async function acks(generator: GeneratorProcess, more: number, when: string): Promise<void> {
  const wanted = generator.counts.ok + more;
  let last = generator.counts.ok;
  let lastMs = performance.now();
  while (generator.counts.ok < wanted) {
    await Bun.sleep(POLL_MS);
    if (generator.counts.ok > last) {
      last = generator.counts.ok;
      lastMs = performance.now();
    } else if (performance.now() - lastMs > RECOVERY_MS) {
      throw new Error(`no send was acknowledged for ${RECOVERY_MS} ms, ${when}: ${describe(generator.counts)}`);
    }
  }
}

/** Users, their tokens and conversations, made through the public API. */
async function prepare({ gateways, serviceKey }: VictimSkein) {
  const api = createApi({ url: gateways[0]!, serviceKey });
  const directs = Array.from({ length: DIRECTS }, (_, i) => [`direct-${i}-a`, `direct-${i}-b`]);
  const groups = Array.from({ length: GROUPS }, (_, i) =>
    Array.from({ length: GROUP_SIZE }, (_, j) => `group-${i}-${j}`),
  );
  const conversations = await inParallel([...directs, ...groups], async (members) => ({
    id: await api.createConversation(members[0]!, {
      type: members.length === 2 ? "direct" : "group",
      members: members.slice(1),
    }),
    members,
  }));
  const users = await inParallel(
    conversations.flatMap(({ members }) => members),
    async (user) => ({ user, token: await api.token(user) }),
  );
  return { conversations, users, urls: gateways.map((url) => `${url.replace(/^http/, "ws")}/v1/ws`) };
}

/** Runs the checker in a process of its own, as an outsider would. */
async function check(evidencePath: string, skein: VictimSkein): Promise<CheckResult> {
  const order: CheckOrder = {
    evidencePath,
    gateways: skein.gateways,
    serviceKey: skein.serviceKey,
    dataDir: skein.dataDir,
  };
  const result = Promise.withResolvers<CheckResult>();
  const child = Bun.spawn([process.execPath, new URL("./check.ts", import.meta.url).pathname], {
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
    ipc: (message: CheckResult) => result.resolve(message),
    onExit: (_, code) => result.reject(new Error(`the checker ended with ${code} and without a result`)),
  });
  child.send(order);
  return result.promise;
}

function printResult(
  { verdict, outcomes, messages, examples, caughtUpMs }: CheckResult,
  print: (line: string) => void,
) {
  const { ok, duplicate, failed, unknown, attempts, retries, unsettled } = outcomes;
  print(
    `outcomes: ${attempts} messages in ${attempts + retries} tries: ${ok} ok, ${failed} failed, ${unknown} unknown`,
  );
  print(`          ${duplicate} acknowledged as repetitions, ${unsettled} neither acknowledged nor found`);
  print(`timeline: ${messages} messages; archive and services complete after ${Math.round(caughtUpMs)} ms`);
  print(
    `verdict:  ${Object.entries(verdict)
      .map(([kind, count]) => `${kind} ${count}`)
      .join(", ")}`,
  );
  for (const example of examples) print(`          ${example}`);
}

function describe({ ok, duplicate, failed, unknown, refused }: Counts): string {
  return `${ok} ok (${duplicate} found to be repetitions), ${failed} failed, ${unknown} unknown, ${refused} refused`;
}
