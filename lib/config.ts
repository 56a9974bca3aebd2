/**
 * The environment, parsed once in a main, frozen and passed down. All faults are reported together, each naming the setting,
 * what it holds and what is allowed; a misspelt SKEIN_ name is a fault with a suggestion. `process.env` is read nowhere else.
 */

import { resolve } from "node:path";
import * as v from "valibot";
import { AppError, type Issue } from "./errors.ts";

const integer = (min: number, max: number) =>
  v.pipe(
    v.string(),
    v.regex(/^\d{1,15}$/, `must be a whole number from ${min} to ${max}`),
    v.transform(Number),
    v.integer(),
    v.minValue(min, `must be at least ${min}`),
    v.maxValue(max, `must be at most ${max}`),
  );

const REDIS_URL_PATTERN = /^(rediss?|redis\+sentinel|redis\+cluster|redis\+unix):\/\/\S+$/;
const ACK_LEVEL_PATTERN = /^(memory|disk|replicated:[1-9])$/;

const flag = v.pipe(
  v.picklist(["0", "1"], "must be 0 or 1"),
  v.transform((text) => text === "1"),
);

/** Every setting with its default. Units are in the names. */
const Settings = v.object({
  SKEIN_PORT: v.optional(integer(0, 65_535), "7400"),
  SKEIN_HOST: v.optional(v.pipe(v.string(), v.minLength(1)), "127.0.0.1"),
  SKEIN_REDIS_URL: v.optional(
    v.pipe(
      v.string(),
      v.regex(
        REDIS_URL_PATTERN,
        "must begin with redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster://",
      ),
    ),
  ),
  SKEIN_DATA_DIR: v.optional(v.pipe(v.string(), v.minLength(1)), ".skein"),
  SKEIN_ARCHIVE_URL: v.optional(
    v.pipe(v.string(), v.regex(/^(sqlite|postgres|postgresql):\/\/\S+$/, "must begin with sqlite:// or postgres://")),
  ),
  /** RFC 7518 §3.2 asks for a key as long as the hash: 32 bytes. */
  SKEIN_JWT_SECRET: v.optional(
    v.pipe(
      v.string(),
      v.check((text) => new TextEncoder().encode(text).length >= 32, "must be at least 32 bytes"),
    ),
  ),
  SKEIN_JWKS_URL: v.optional(v.pipe(v.string(), v.url("must be a URL"))),
  SKEIN_SERVICE_KEY: v.optional(
    v.pipe(
      v.string(),
      v.regex(/^sk_[A-Za-z0-9]{1,32}_[A-Za-z0-9_-]{32,128}$/, "must be sk_<id>_<secret of 32 to 128 characters>"),
    ),
  ),
  SKEIN_PARTITIONS: v.optional(integer(1, 1024), "16"),
  SKEIN_PREFIX: v.optional(
    v.pipe(v.string(), v.regex(/^[A-Za-z0-9_.-]{1,32}$/, "must be 1..32 of [A-Za-z0-9_.-]")),
    "skein",
  ),
  SKEIN_ACK_LEVEL: v.optional(
    v.pipe(v.string(), v.regex(ACK_LEVEL_PATTERN, "must be memory, disk or replicated:<1..9>")),
    "disk",
  ),
  SKEIN_ORIGINS: v.optional(v.string(), ""),
  SKEIN_LOG_LEVEL: v.optional(
    v.picklist(["debug", "info", "warn", "error"], "must be debug, info, warn or error"),
    "info",
  ),
  /** Sends per second and user, and the burst above it (design.md §10). */
  SKEIN_SEND_RATE: v.optional(integer(1, 1_000_000), "30"),
  SKEIN_SEND_BURST: v.optional(integer(1, 1_000_000), "60"),
  /** How long a sender may recall a message. */
  SKEIN_RECALL_SECONDS: v.optional(integer(0, 10 * 365 * 86_400), "120"),
  /** Is asked about each message before it is committed (workers/logic/hook.ts). */
  SKEIN_HOOK_URL: v.optional(v.pipe(v.string(), v.regex(/^https?:\/\/\S+$/, "must begin with http:// or https://"))),
  SKEIN_HOOK_SECRET: v.optional(v.pipe(v.string(), v.minLength(24, "must be at least 24 characters"))),
  /** With its wait and the commit it must fit into the 5 s of a call. */
  SKEIN_HOOK_TIMEOUT_MS: v.optional(integer(50, 2_000), "1000"),
  SKEIN_HOOK_FAILURE: v.optional(v.picklist(["allow", "refuse"], "must be allow or refuse"), "allow"),
  /** Messages and all other entries are kept for so many days; 0: for ever. */
  SKEIN_ARCHIVE_DAYS: v.optional(integer(0, 36_500), "0"),
  /** Users who were not seen for so many days are won back (`im.user.winback`); 0: nobody is. */
  SKEIN_WINBACK_DAYS: v.optional(integer(0, 3_650), "0"),
  /** The same user at most once in so many days. */
  SKEIN_WINBACK_PERIOD_DAYS: v.optional(integer(1, 3_650), "30"),
  /** The push that goes with it; without a text there is none. */
  SKEIN_WINBACK_TITLE: v.optional(v.pipe(v.string(), v.maxLength(256, "must be at most 256 characters")), ""),
  SKEIN_WINBACK_TEXT: v.optional(v.pipe(v.string(), v.maxLength(1_024, "must be at most 1024 characters")), ""),
  /** 1 lets Skein start on a Redis that cannot keep the ack level's promise. */
  SKEIN_ALLOW_UNSAFE: v.optional(flag, "0"),
  /** 1 lets webhooks and check-backs go to http, any port and private addresses: for tests, and receivers within one's own network. */
  SKEIN_OUTBOUND_PRIVATE: v.optional(flag, "0"),
  /** The VAPID key, where several machines share an installation; generated in the data dir else. */
  SKEIN_VAPID_KEY: v.optional(
    v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{43}$/, "must be a P-256 private key: 32 bytes in base64url")),
  ),
  /** Whom a push service may write to when we misbehave; Apple refuses push without a real one. */
  SKEIN_PUSH_CONTACT: v.optional(
    v.pipe(
      v.string(),
      // Web Push's library refuses what is none with each push, and each device would pass for gone.
      v.check(
        (text) => /^(mailto:|https:\/\/)\S+$/.test(text) && URL.canParse(text),
        "must be a mailto: or https:// URL",
      ),
    ),
    "mailto:postmaster@localhost",
  ),
  /** Apple's .p8 file; with it the next three. */
  SKEIN_APNS_KEY_FILE: v.optional(v.pipe(v.string(), v.minLength(1))),
  SKEIN_APNS_KEY_ID: v.optional(v.pipe(v.string(), v.minLength(1))),
  SKEIN_APNS_TEAM_ID: v.optional(v.pipe(v.string(), v.minLength(1))),
  /** The app's bundle id, for devices that name none. */
  SKEIN_APNS_TOPIC: v.optional(v.pipe(v.string(), v.minLength(1))),
  SKEIN_APNS_ORIGIN: v.optional(
    v.pipe(v.string(), v.regex(/^https?:\/\/[^/\s]+$/, "must be an origin, https://host")),
    "https://api.push.apple.com",
  ),
  /** Google's JSON file of the service account that may send. */
  SKEIN_FCM_ACCOUNT_FILE: v.optional(v.pipe(v.string(), v.minLength(1))),
  /** Where a role's RPC listens: empty = a unix socket of this machine; else a host name or address that the others reach. */
  SKEIN_RPC_HOST: v.optional(v.string(), ""),
  /** Shared by all processes of an installation; generated in the data dir when every process runs on one machine. */
  SKEIN_INTERNAL_SECRET: v.optional(v.pipe(v.string(), v.minLength(32, "must be at least 32 characters"))),
});

export interface Config {
  readonly port: number;
  readonly host: string;
  /** Undefined: the supervisor starts its own Redis. */
  readonly redisUrl: string | undefined;
  /** Absolute. */
  readonly dataDir: string;
  readonly archiveUrl: string;
  readonly jwtSecret: string | undefined;
  readonly jwksUrl: string | undefined;
  readonly serviceKey: string | undefined;
  readonly internalSecret: string | undefined;
  readonly partitions: number;
  readonly prefix: string;
  readonly ackLevel: AckLevel;
  readonly origins: readonly string[];
  readonly logLevel: "debug" | "info" | "warn" | "error";
  readonly sendRate: number;
  readonly sendBurst: number;
  readonly recallSeconds: number;
  /** 0: for ever. */
  readonly archiveDays: number;
  /** Undefined: nobody is asked before a message is committed. */
  readonly hook: HookConfig | undefined;
  readonly winback: {
    /** 0: off. */
    readonly days: number;
    readonly periodDays: number;
    readonly title: string;
    /** "": no push. */
    readonly text: string;
  };
  readonly allowUnsafe: boolean;
  readonly outboundPrivate: boolean;
  readonly rpcHost: string;
  readonly vapidKey: string | undefined;
  readonly pushContact: string;
  /** Undefined: nobody is pushed to by APNs. */
  readonly apns: ApnsSettings | undefined;
  /** Undefined: nobody is pushed to by FCM. */
  readonly fcmAccountFile: string | undefined;
}

export interface ApnsSettings {
  readonly keyFile: string;
  readonly keyId: string;
  readonly teamId: string;
  readonly topic: string;
  readonly origin: string;
}

/** The before-send hook. */
export interface HookConfig {
  readonly url: string;
  readonly secret: string;
  /** For one answer. */
  readonly timeoutMs: number;
  /** Without a verdict: everything passes, or nothing does. */
  readonly onFailure: "allow" | "refuse";
}

/** `memory`: AOF everysec. `disk`: fsync before the reply. `replicated:n`: disk and n replicas before the reply. */
export type AckLevel = "memory" | "disk" | `replicated:${number}`;

/** Reads and checks the environment. Throws AppError INVALID with one issue per fault. */
export function readConfig(env: Record<string, string | undefined> = process.env): Config {
  const known = Object.keys(Settings.entries);
  const given: Record<string, string> = {};
  const issues: Issue[] = [];
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith("SKEIN_") || value === undefined) continue;
    if (known.includes(name)) given[name] = value;
    else issues.push({ path: name, message: `is not a setting; did you mean ${nearest(name, known)}?` });
  }
  const parsed = v.safeParse(Settings, given);
  if (!parsed.success) {
    for (const issue of parsed.issues)
      issues.push({ path: String(issue.path?.[0]?.key ?? ""), message: issue.message });
  }
  if (given.SKEIN_HOOK_URL !== undefined && given.SKEIN_HOOK_SECRET === undefined) {
    issues.push({ path: "SKEIN_HOOK_SECRET", message: "must be given with SKEIN_HOOK_URL: it signs the calls" });
  }
  issues.push(...issuesOfApns(given));
  if (!parsed.success || issues.length > 0) {
    const lines = issues.map((issue) => `${issue.path} ${issue.message}`).join("; ");
    throw new AppError("INVALID", `settings: ${lines}`, { issues });
  }
  const settings = parsed.output;
  const dataDir = resolve(settings.SKEIN_DATA_DIR);
  return Object.freeze({
    port: settings.SKEIN_PORT,
    host: settings.SKEIN_HOST,
    redisUrl: settings.SKEIN_REDIS_URL,
    dataDir,
    archiveUrl: settings.SKEIN_ARCHIVE_URL ?? `sqlite://${dataDir}/archive.db`,
    jwtSecret: settings.SKEIN_JWT_SECRET,
    jwksUrl: settings.SKEIN_JWKS_URL,
    serviceKey: settings.SKEIN_SERVICE_KEY,
    internalSecret: settings.SKEIN_INTERNAL_SECRET,
    partitions: settings.SKEIN_PARTITIONS,
    prefix: settings.SKEIN_PREFIX,
    ackLevel: settings.SKEIN_ACK_LEVEL as AckLevel,
    origins: settings.SKEIN_ORIGINS.split(",")
      .map((origin) => origin.trim())
      .filter(Boolean),
    logLevel: settings.SKEIN_LOG_LEVEL,
    sendRate: settings.SKEIN_SEND_RATE,
    sendBurst: settings.SKEIN_SEND_BURST,
    recallSeconds: settings.SKEIN_RECALL_SECONDS,
    archiveDays: settings.SKEIN_ARCHIVE_DAYS,
    hook: hookOf(settings),
    winback: {
      days: settings.SKEIN_WINBACK_DAYS,
      periodDays: settings.SKEIN_WINBACK_PERIOD_DAYS,
      title: settings.SKEIN_WINBACK_TITLE,
      text: settings.SKEIN_WINBACK_TEXT,
    },
    allowUnsafe: settings.SKEIN_ALLOW_UNSAFE,
    outboundPrivate: settings.SKEIN_OUTBOUND_PRIVATE,
    rpcHost: settings.SKEIN_RPC_HOST,
    vapidKey: settings.SKEIN_VAPID_KEY,
    pushContact: settings.SKEIN_PUSH_CONTACT,
    apns: apnsOf(settings),
    fcmAccountFile: settings.SKEIN_FCM_ACCOUNT_FILE,
  });
}

function hookOf(settings: v.InferOutput<typeof Settings>): HookConfig | undefined {
  const { SKEIN_HOOK_URL: url, SKEIN_HOOK_SECRET: secret } = settings;
  if (url === undefined || secret === undefined) return undefined;
  return { url, secret, timeoutMs: settings.SKEIN_HOOK_TIMEOUT_MS, onFailure: settings.SKEIN_HOOK_FAILURE };
}

const APNS = ["SKEIN_APNS_KEY_FILE", "SKEIN_APNS_KEY_ID", "SKEIN_APNS_TEAM_ID", "SKEIN_APNS_TOPIC"] as const;

/** All of them or none. */
function issuesOfApns(given: Readonly<Record<string, string>>): Issue[] {
  const missing = APNS.filter((name) => !(name in given));
  if (missing.length === 0 || missing.length === APNS.length) return [];
  return missing.map((path) => ({ path, message: "is needed for APNs beside the others of its name" }));
}

function apnsOf(settings: v.InferOutput<typeof Settings>): ApnsSettings | undefined {
  const [keyFile, keyId, teamId, topic] = APNS.map((name) => settings[name]);
  if (!keyFile || !keyId || !teamId || !topic) return undefined;
  return { keyFile, keyId, teamId, topic, origin: settings.SKEIN_APNS_ORIGIN };
}

/** This process' environment for a child, with settings replaced. `settings: "none"` leaves our own SKEIN_ settings out first. */
export function childEnvironment(
  replaced: Readonly<Record<string, string>>,
  settings: "all" | "none" = "all",
): Record<string, string | undefined> {
  const inherited = Object.entries(process.env).filter(([name]) => settings === "all" || !name.startsWith("SKEIN_"));
  return { ...Object.fromEntries(inherited), ...replaced };
}

/** The known name with the smallest edit distance. */
function nearest(name: string, known: readonly string[]): string {
  let best = known[0]!;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const distance = editDistance(name, candidate);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
