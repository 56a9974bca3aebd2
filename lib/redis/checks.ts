/**
 * Whether a Redis can keep what the ack level promises (design.md §8). Judged at every start, where a fault refuses it unless
 * the operator allows it (SKEIN_ALLOW_UNSAFE=1), and at most CHECK_EVERY_MS old while running, where it turns readiness red:
 * CONFIG SET at noon breaks the same promises as a wrong file at boot.
 */

import type { AckLevel, Config } from "../config.ts";
import { AppError } from "../errors.ts";
import type { Check } from "../observability/index.ts";
import type { RedisConnections } from "./client.ts";
import type { Keys } from "./keys.ts";
import { toAppError } from "./outcome.ts";
import { type NodeSettings, readSettings } from "./settings.ts";

/** `refuse`: a promise would be broken. `warn`: worth knowing. */
export type Severity = "refuse" | "warn";

export interface Finding {
  readonly name: string;
  readonly ok: boolean;
  readonly severity: Severity;
  /** What was found, with the node when there are several. */
  readonly found: string;
  /** What to do about it. */
  readonly remedy: string;
}

type CheckedConfig = Pick<Config, "ackLevel" | "redisUrl" | "allowUnsafe">;

/** How old a verdict may be while running. */
const CHECK_EVERY_MS = 10_000;
/** Scripts with flags, XAUTOCLAIM's deleted list and multi-part AOF came with 7.0. */
const VERSION_MIN = 7;
/** Leases and due times go by Redis TIME; beyond this, timestamps of messages and logs mislead people. */
const CLOCK_OFFSET_MS_MAX = 1_000;
const REPLICAS = "replicas";
const UNVERIFIED = "cannot be verified: CONFIG GET is forbidden";
const PRIVATE_BIND = /^-?(127\.|::1$|localhost$|10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|f[cd][0-9a-f]{2}:|fe80:)/;

/** All findings, good and bad, over all masters. Rejects with an AppError when Redis does not answer. */
export async function checkRedis(redis: RedisConnections, config: CheckedConfig): Promise<readonly Finding[]> {
  return judge(await settingsOf(redis, 0), config);
}

/**
 * Throws AppError INVALID that lists each fault with its remedy, unless the operator allows it; OVERLOADED when nothing but a
 * replica is missing, which may be on its way. Resolves with all findings.
 */
export async function assertRedisIsSafe(redis: RedisConnections, config: CheckedConfig): Promise<readonly Finding[]> {
  const findings = await checkRedis(redis, config);
  const faults = findings.filter((finding) => !finding.ok && finding.severity === "refuse");
  if (faults.length > 0 && !config.allowUnsafe) {
    const lines = faults.map(({ name, found, remedy }) => `  ${name}: ${found}. ${remedy}`);
    throw new AppError(
      faults.every(({ name }) => name === REPLICAS) ? "OVERLOADED" : "INVALID",
      `this Redis cannot keep the promises of ack level ${config.ackLevel} (SKEIN_ALLOW_UNSAFE=1 starts anyway):\n${lines.join("\n")}`,
    );
  }
  return findings;
}

/**
 * The partitions of the installation, fixed by its first start. Resolves with whether this was the first. Throws AppError
 * INVALID when another number is stored: every key would hash elsewhere.
 */
export async function claimInstallation(redis: RedisConnections, keys: Keys, nowMs: number): Promise<boolean> {
  const { commands } = redis;
  const key = keys.installation();
  const isFirst = (await commands.hsetnx(key, "partitions", String(keys.partitions))) === 1;
  if (isFirst) await commands.hset(key, "created", String(nowMs));
  const stored = await commands.hget(key, "partitions");
  if (stored !== String(keys.partitions)) {
    throw new AppError(
      "INVALID",
      `SKEIN_PARTITIONS is ${keys.partitions}, and this installation was made with ${stored}: set it to ${stored}, or use another SKEIN_PREFIX`,
    );
  }
  return isFirst;
}

/** The highest level that the deployment can be shown to keep right now; `none` without AOF. At most CHECK_EVERY_MS old. */
export async function ackLevelInForce(redis: RedisConnections, config: CheckedConfig): Promise<AckLevel | "none"> {
  return levelOf(await settingsOf(redis, CHECK_EVERY_MS), config);
}

/**
 * Red while Redis is away or, unless the operator allows it, a promise would be broken. Settings are read at most every `everyMs`,
 * however often it runs.
 */
export function createRedisCheck(redis: RedisConnections, config: CheckedConfig, everyMs = CHECK_EVERY_MS): Check {
  return {
    name: "redis",
    async run() {
      const nodes = await settingsOf(redis, everyMs);
      if (redis.topology !== "cluster") await redis.commands.ping();
      const bad = judge(nodes, config).filter((finding) => !finding.ok);
      const refused = bad.filter(({ severity }) => severity === "refuse");
      if (refused.length > 0 && !config.allowUnsafe) {
        throw new Error(refused.map(({ name, found }) => `${name}: ${found}`).join("; "));
      }
      return {
        topology: redis.topology,
        version: nodes[0]?.version,
        ackLevel: levelOf(nodes, config),
        ...(bad.length === 0 ? {} : { warnings: bad.map(({ name, found }) => `${name}: ${found}`) }),
      };
    },
  };
}

interface Seen {
  readonly atMs: number;
  readonly nodes: Promise<readonly NodeSettings[]>;
}
const seen = new WeakMap<RedisConnections, Seen>();

/** Settings at most `maxAgeMs` old; callers at the same time share one reading. */
async function settingsOf(redis: RedisConnections, maxAgeMs: number): Promise<readonly NodeSettings[]> {
  const last = seen.get(redis);
  if (last && performance.now() - last.atMs < maxAgeMs) return last.nodes;
  const nodes = readSettings(redis).catch((error: unknown) => {
    seen.delete(redis);
    throw toAppError(error);
  });
  seen.set(redis, { atMs: performance.now(), nodes });
  return nodes;
}

function levelOf(nodes: readonly NodeSettings[], { ackLevel }: CheckedConfig): AckLevel | "none" {
  if (nodes.some((node) => !node.isAofOn)) return "none";
  const isDisk = nodes.every(
    ({ config }) => config?.get("appendfsync") === "always" && config.get("no-appendfsync-on-rewrite") === "no",
  );
  if (!isDisk) return "memory";
  const wanted = replicasOf(ackLevel);
  return wanted > 0 && nodes.every((node) => node.replicas >= wanted)
    ? ackLevel
    : ackLevel === "memory"
      ? "memory"
      : "disk";
}

/** Replicas that must hold what is acknowledged; 0 below `replicated`. */
export function replicasOf(ackLevel: AckLevel): number {
  return ackLevel.startsWith("replicated:") ? Number(ackLevel.slice("replicated:".length)) : 0;
}

interface Rule {
  readonly name: string;
  readonly severity: Severity;
  /** Only CONFIG GET tells, which may be forbidden. */
  readonly isFromConfig?: boolean;
  readonly found: (node: NodeSettings) => string;
  readonly isMet: (node: NodeSettings) => boolean;
  readonly remedy: string;
}

function judge(nodes: readonly NodeSettings[], config: CheckedConfig): readonly Finding[] {
  return rulesFor(config).map((rule) => {
    const { name, found, isMet, remedy } = rule;
    const broken = nodes.filter((node) => !isMet(node));
    const shown = broken.length > 0 ? broken : nodes.slice(0, 1);
    const text = shown.map((node) => (nodes.length > 1 ? `${found(node)} on ${node.node}` : found(node))).join(", ");
    return { name, ok: broken.length === 0, severity: severityOf(rule, broken), found: text, remedy };
  });
}

/** What a managed service does not let us read cannot refuse it: it would be refused for ever. */
function severityOf({ severity, isFromConfig }: Rule, broken: readonly NodeSettings[]): Severity {
  return isFromConfig && broken.every((node) => node.config === undefined) ? "warn" : severity;
}

function rulesFor({ ackLevel, redisUrl }: CheckedConfig): readonly Rule[] {
  const fsync = ackLevel === "memory" ? ["everysec", "always"] : ["always"];
  const replicas = replicasOf(ackLevel);
  const rules: Rule[] = [
    {
      name: "version",
      severity: "refuse",
      found: ({ version }) => version || "unknown",
      isMet: ({ version }) => Number.parseInt(version, 10) >= VERSION_MIN,
      remedy: `Use Redis or Valkey ${VERSION_MIN}.0 or newer.`,
    },
    {
      name: "maxmemory-policy",
      severity: "refuse",
      found: ({ maxmemoryPolicy }) => maxmemoryPolicy,
      isMet: ({ maxmemoryPolicy }) => maxmemoryPolicy === "noeviction",
      remedy:
        "CONFIG SET maxmemory-policy noeviction, and in redis.conf: any other policy deletes acknowledged messages.",
    },
    {
      name: "appendonly",
      severity: "refuse",
      found: ({ isAofOn }) => (isAofOn ? "yes" : "no"),
      isMet: ({ isAofOn }) => isAofOn,
      remedy:
        "CONFIG SET appendonly yes, and in redis.conf: without it a restart of Redis loses everything since its last snapshot.",
    },
    configRule("appendfsync", fsync, `Level ${ackLevel} needs ${fsync.at(-1)}; SKEIN_ACK_LEVEL=memory promises less.`),
    configRule("no-appendfsync-on-rewrite", ["no"], "yes stops fsync while the AOF is rewritten."),
    configRule(
      "aof-use-rdb-preamble",
      ["yes"],
      "no drops pending deliveries of deleted entries when the AOF is rewritten.",
    ),
    {
      name: "access",
      severity: "warn",
      found: ({ config }) =>
        hasPassword(redisUrl)
          ? "password"
          : config
            ? `no password, bind "${config.get("bind")}"`
            : `no password, bind ${UNVERIFIED}`,
      isMet: ({ config }) => hasPassword(redisUrl) || isBoundPrivately(config?.get("bind")),
      remedy: "Set a password (and give it in SKEIN_REDIS_URL), or bind to a private address.",
    },
    {
      name: "clock",
      severity: "warn",
      found: ({ clockOffsetMs }) => `${clockOffsetMs} ms from ours`,
      isMet: ({ clockOffsetMs }) => Math.abs(clockOffsetMs) <= CLOCK_OFFSET_MS_MAX,
      remedy: "Synchronise the clocks of the machines (NTP).",
    },
  ];
  if (replicas > 0) {
    rules.push({
      name: REPLICAS,
      severity: "refuse",
      found: (node) => String(node.replicas),
      isMet: (node) => node.replicas >= replicas,
      remedy: `Level ${ackLevel} needs ${replicas} connected: attach them, or lower SKEIN_ACK_LEVEL.`,
    });
  }
  return rules;
}

function configRule(name: string, wanted: readonly string[], why: string): Rule {
  return {
    name,
    severity: "refuse",
    isFromConfig: true,
    found: ({ config }) => config?.get(name) ?? UNVERIFIED,
    isMet: ({ config }) => wanted.includes(config?.get(name) ?? ""),
    remedy: `CONFIG SET ${name} ${wanted.at(-1)}, and in redis.conf (or let Skein's user run CONFIG GET). ${why}`,
  };
}

function hasPassword(url: string | undefined): boolean {
  return url !== undefined && /^[a-z+]+:\/\/[^/]*@/.test(url);
}

function isBoundPrivately(bind: string | undefined): boolean {
  const addresses = bind?.split(/\s+/).filter(Boolean) ?? [];
  return addresses.length > 0 && addresses.every((address) => PRIVATE_BIND.test(address));
}
