/**
 * A replay from logs to verdict: parse, gather the crowd, play all files at once, then look at everything from outside.
 *
 *   logs ─► plans ─► crowd (a socket per nick) ─► stages (a conversation per file) ─► lines ─► drained ─► verdict
 */

import { randomBytes } from "node:crypto";
import { basename } from "node:path";
import { createApi } from "../load/api.ts";
import type { Percentiles } from "../load/contract.ts";
import { createLatencies } from "../load/latencies.ts";
import { gather } from "./crowd.ts";
import { createKills, type Kill, type KillOrder, type Victim } from "./kills.ts";
import { type LogCounts, parseLog } from "./parse.ts";
import { toPlan } from "./plan.ts";
import { play } from "./play.ts";
import type { Progress } from "./progress.ts";
import { Stage, type StageCounters } from "./stage.ts";
import { checkArchive, checkHistory, checkService, type Finding, isClean, SERVICES } from "./verify.ts";

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
  readonly kills: KillOrder | undefined;
  readonly progress: Progress;
}

export interface ReplayResult {
  readonly files: readonly ({ readonly file: string; readonly members: number } & LogCounts)[];
  readonly users: number;
  readonly gateways: number;
  readonly lines: number;
  readonly deliveries: number;
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
  const { files, speed, progress } = options;
  const run = randomBytes(4).toString("hex");
  const deliveryMs = createLatencies();
  const ackMs = createLatencies();
  const counters: StageCounters = { ackMs, deliveryMs, deliveries: 0 };
  const parts = await Promise.all(
    files.map(async (path, i) => {
      const { events, counts } = parseLog(await Bun.file(path).bytes());
      const plan = toPlan(events);
      return { counts, plan, stage: new Stage(`replay-${run}-${i + 1}`, basename(path), counters) };
    }),
  );
  const lines = parts.reduce((sum, { counts }) => sum + counts.said, 0);
  const users = [...new Set([OWNER, ...parts.flatMap(({ plan }) => [...plan.users])])];
  const stages = new Map(parts.map(({ stage }) => [stage.conversation, stage]));
  const problems: string[] = [];

  const connectMs = performance.now();
  const onConnected = (count: number) => progress.show("connected", count, users.length);
  const crowd = await gather({ ...target, users, stages, onConnected });
  const playMs = performance.now();
  let sent = 0;
  const onSent = () => {
    sent += 1;
    progress.show("lines", sent, lines);
  };
  const kills = options.kills && createKills(options.kills, lines, () => sent, target.processes);
  const killing = kills?.run().catch((error: Error) => void problems.push(error.message));
  try {
    await Promise.all(
      parts.map(({ plan, stage }) =>
        play({ stage, plan, crowd, owner: OWNER, speed, counters, onSent }).catch((error: Error) => {
          problems.push(`${stage.file}: ${error.message}`);
        }),
      ),
    );
    kills?.stop();
    await killing;
    const playedMs = performance.now();
    for (const { stage } of parts) stage.conclude();
    progress.end();
    const findings = [
      ofMembers([...stages.values()], counters.deliveries),
      ...(await look(target, [...stages.values()], problems)),
    ];
    problems.push(...crowd.ended);
    return {
      files: parts.map(({ counts, plan, stage }) => ({ file: stage.file, members: plan.users.size, ...counts })),
      users: users.length - 1,
      gateways: target.urls.length,
      lines: sent,
      deliveries: counters.deliveries,
      connectSeconds: (playMs - connectMs) / 1_000,
      playSeconds: (playedMs - playMs) / 1_000,
      ackMs: ackMs.percentiles(),
      deliveryMs: deliveryMs.percentiles(),
      ...crowd.counts,
      kills: (kills?.done ?? []).map((kill) => ({ ...kill, atMs: Math.round(kill.atMs - playMs) })),
      findings,
      problems,
      isClean: problems.length === 0 && sent === lines && findings.every(isClean),
    };
  } finally {
    crowd.close();
  }
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

async function look(target: ReplayTarget, stages: readonly Stage[], problems: string[]): Promise<Finding[]> {
  const { urls, serviceKey, dataDir } = target;
  const token = await createApi({ url: urls[0]!, serviceKey }).token(OWNER);
  const findings = [await checkHistory(`${urls.at(-1)!.replace(/^http/, "ws")}/v1/ws`, token, stages)];
  if (dataDir === undefined) return findings;
  for (const check of [
    () => checkArchive(dataDir, stages),
    ...SERVICES.map((service) => () => checkService(dataDir, service, stages)),
  ]) {
    const finding = await check();
    if (finding) findings.push(finding);
  }
  const expected = 2 + SERVICES.length;
  if (findings.length < expected)
    problems.push(`${expected - findings.length} of the files in ${dataDir} are not there`);
  return findings;
}
