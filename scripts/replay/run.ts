/**
 * A replay from logs to verdict: parse, gather the crowd, play all files at once, then look at everything from outside.
 *
 *   logs ─► plans ─► crowd (sockets per nick) ─► stages (a conversation per file) ─► lines and acts ─► drained ─► verdict
 */

import { randomBytes } from "node:crypto";
import { basename } from "node:path";
import { createRandom } from "../chaos/random.ts";
import { createApi } from "../load/api.ts";
import type { Percentiles } from "../load/contract.ts";
import { createLatencies } from "../load/latencies.ts";
import { type ActCounts, noActs } from "./acts.ts";
import { checkDevices, checkFresh, checkReads, followAnew } from "./agree.ts";
import { type Crowd, DEVICES, gather, socketUrl } from "./crowd.ts";
import { type Finding, isClean } from "./finding.ts";
import { createKills, type Kill, type KillOrder, type Victim } from "./kills.ts";
import { mixIn } from "./mix.ts";
import { type Nap, planNaps } from "./naps.ts";
import { type LogCounts, parseLog } from "./parse.ts";
import { type Plan, toPlan } from "./plan.ts";
import { play, STALL_MS } from "./play.ts";
import type { Progress } from "./progress.ts";
import { Stage, type StageCounters } from "./stage.ts";
import { checkArchive, checkHistory, checkService, SERVICES } from "./verify.ts";

/** No nick's id: an escape is upper case. */
const OWNER = "=owner";

export interface ReplayTarget {
  /** http://host:port of every gateway. */
  readonly urls: readonly string[];
  readonly serviceKey: string;
  /** Where archive.db and the services' files lie, when they can be read. */
  readonly dataDir: string | undefined;
  /** Who may be killed. */
  processes(): readonly Victim[];
}

export interface ReplayOptions {
  readonly files: readonly string[];
  readonly speed: number;
  /** The share of the lines that acts follow; 0: only lines are played. */
  readonly mix: number;
  /** Of each user, 1 or 2; the second one is offline half the time. */
  readonly devices: number;
  /** Of the acts and the naps. */
  readonly seed: number;
  readonly kills: KillOrder | undefined;
  readonly progress: Progress;
}

export interface ReplayResult {
  readonly files: readonly ({ readonly file: string; readonly members: number } & LogCounts)[];
  readonly users: number;
  readonly gateways: number;
  readonly lines: number;
  readonly deliveries: number;
  /** Messages that came to devices when they were back. */
  readonly caughtUp: number;
  readonly devices: number;
  readonly seed: number;
  readonly acts: ActCounts;
  /** How often a device went offline. */
  readonly naps: number;
  readonly typingSeen: number;
  readonly connectSeconds: number;
  readonly playSeconds: number;
  readonly ackMs: Percentiles;
  readonly deliveryMs: Percentiles;
  readonly reconnects: number;
  readonly resyncs: number;
  readonly kills: readonly Kill[];
  readonly findings: readonly Finding[];
  /** Why it could not be played to its end, or what it could not look into. */
  readonly problems: readonly string[];
  readonly isClean: boolean;
}

/** Plays the logs on the target. Rejects only when a file cannot be read or nobody can connect; else the result tells. */
export async function replay(target: ReplayTarget, options: ReplayOptions): Promise<ReplayResult> {
  const { progress, seed, devices } = options;
  const counters = { ackMs: createLatencies(), deliveryMs: createLatencies(), deliveries: 0, caughtUp: 0 };
  const parts = await readParts(options, counters);
  const users = [...new Set([OWNER, ...parts.flatMap(({ plan }) => [...plan.users])])];
  const stages = parts.map(({ stage }) => stage);
  const problems: string[] = [];

  const connectMs = performance.now();
  const crowd = await gather({
    ...target,
    users,
    devices: DEVICES.slice(0, devices),
    stages: new Map(stages.map((stage) => [stage.conversation, stage])),
    onConnected: (count) => progress.show("connected", count, users.length),
  });
  const playMs = performance.now();
  try {
    const naps = devices > 1 ? planNaps(users, linesOf(parts), createRandom(seed)) : [];
    const played = await perform({ target, options, parts, counters, crowd, naps, problems });
    const playedMs = performance.now();
    for (const stage of stages) stage.conclude();
    progress.end();
    const findings = [ofMembers(stages, counters.deliveries), ...(await look(target, crowd, stages, problems))];
    problems.push(...crowd.ended);
    const { ackMs, deliveryMs, ...counted } = counters;
    return {
      files: parts.map(({ counts, plan, stage }) => ({ file: stage.file, members: plan.users.size, ...counts })),
      users: users.length - 1,
      gateways: target.urls.length,
      lines: played.sent,
      ...counted,
      ...{ devices, seed, acts: played.acts, naps: naps.filter(({ falls }) => falls === "asleep").length },
      connectSeconds: (playMs - connectMs) / 1_000,
      playSeconds: (playedMs - playMs) / 1_000,
      ackMs: ackMs.percentiles(),
      deliveryMs: deliveryMs.percentiles(),
      ...crowd.counts,
      kills: played.kills.map((kill) => ({ ...kill, atMs: Math.round(kill.atMs - playMs) })),
      findings,
      problems,
      isClean: problems.length === 0 && played.sent === linesOf(parts) && findings.every(isClean),
    };
  } finally {
    crowd.close();
  }
}

interface Part {
  readonly counts: LogCounts;
  readonly plan: Plan;
  readonly stage: Stage;
}

const linesOf = (parts: readonly Part[]) => parts.reduce((sum, { counts }) => sum + counts.said, 0);

async function readParts(options: ReplayOptions, counters: StageCounters): Promise<Part[]> {
  const { files, mix: share, devices, seed } = options;
  const run = randomBytes(4).toString("hex");
  return Promise.all(
    files.map(async (path, i) => {
      const { events, counts } = parseLog(await Bun.file(path).bytes());
      const random = createRandom(seed + i + 1);
      const plan = mixIn(toPlan(events), { share, devices, owner: OWNER, random });
      const names = DEVICES.slice(0, devices);
      const conversation = `replay-${run}-${i + 1}`;
      return { counts, plan, stage: new Stage({ conversation, file: basename(path), devices: names, counters }) };
    }),
  );
}

interface Performance {
  readonly target: ReplayTarget;
  readonly options: ReplayOptions;
  readonly parts: readonly Part[];
  readonly counters: StageCounters;
  readonly crowd: Crowd;
  readonly naps: readonly Nap[];
  readonly problems: string[];
}

/** All files at once, with whatever strikes meanwhile; resolves when every device is back and has what was said. */
async function perform({ target, options, parts, counters, crowd, naps, problems }: Performance) {
  const lines = linesOf(parts);
  const acts = noActs();
  let sent = 0;
  let napped = 0;
  const nap = () => {
    for (; napped < naps.length && naps[napped]!.atLine <= sent; napped++) {
      const { user, falls } = naps[napped]!;
      if (falls === "asleep") crowd.sleep(user, 1);
      else crowd.wake(user, 1);
    }
  };
  const onSent = () => {
    sent += 1;
    nap();
    options.progress.show("lines", sent, lines);
  };
  nap();
  const kills = options.kills && createKills(options.kills, lines, () => sent, target.processes);
  const killing = kills?.run().catch((error: Error) => void problems.push(error.message));
  const { speed } = options;
  await Promise.all(
    parts.map(({ plan, stage }) =>
      play({ stage, plan, crowd, owner: OWNER, speed, counters, acts, onSent }).catch((error: Error) => {
        problems.push(`${stage.file}: ${error.message}`);
      }),
    ),
  );
  kills?.stop();
  await killing;
  await crowd.wakeAll();
  await Promise.all(parts.map(({ stage }) => stage.untilOutstanding(0, STALL_MS)));
  return { sent, acts, kills: kills?.done ?? [] };
}

function ofMembers(stages: readonly Stage[], messages: number): Finding {
  const faults = { lost: 0, doubled: 0, reordered: 0, different: 0, outside: 0 };
  const examples: string[] = [];
  for (const stage of stages) {
    for (const kind of Object.keys(faults) as (keyof typeof faults)[]) faults[kind] += stage.faults[kind];
    examples.push(...stage.examples);
  }
  return { where: "members", messages, ...faults, examples };
}

async function look(
  target: ReplayTarget,
  crowd: Crowd,
  stages: readonly Stage[],
  problems: string[],
): Promise<Finding[]> {
  const { urls, serviceKey, dataDir } = target;
  const token = await createApi({ url: urls[0]!, serviceKey }).token(OWNER);
  const url = socketUrl(urls.at(-1)!);
  const held = await followAnew(url, token, stages);
  const findings = [
    checkFresh(held),
    checkDevices(held),
    await checkReads((user) => crowd.client(user), stages),
    await checkHistory(url, token, held),
  ];
  if (dataDir === undefined) return findings;
  const ofFiles = [
    await checkArchive(dataDir, held),
    ...(await Promise.all(SERVICES.map((service) => checkService(dataDir, service, stages)))),
  ];
  const missing = ofFiles.filter((found) => found === undefined).length;
  if (missing > 0) problems.push(`${missing} of the files in ${dataDir} are not there`);
  return [...findings, ...ofFiles.filter((found) => found !== undefined)];
}
