/**
 * `skein doctor`: whether everything that Skein stands on is as it must be, each fault with its remedy. Works with and without a
 * running Skein; what needs one is then left out.
 */

import { accessSync, constants, existsSync, statfsSync } from "node:fs";
import { dirname } from "node:path";
import { defineCommand } from "citty";
import { type Config, readConfig } from "../../lib/config.ts";
import { AppError } from "../../lib/errors.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { checkRedis, type Finding, openRedis } from "../../lib/redis/index.ts";
import { findRedisServer } from "../setup.ts";
import { Failure, findRunning, type RunningSkein } from "./running.ts";

/** An append-only file that cannot grow stops Redis (and with it every send): room for a rewrite of some hours of chat. */
const FREE_BYTES_MIN = 1024 ** 3;
const ANSWER_MS_MAX = 5_000;

export const doctor = defineCommand({
  meta: { name: "doctor", description: "Check versions, Redis settings, ports, disk and clock" },
  args: { json: { type: "boolean", default: false, description: "Print the findings as JSON" } },
  async run({ args }) {
    const findings = await examine();
    console.log(args.json ? JSON.stringify(findings, null, 2) : render(findings));
    if (findings.some(({ ok, severity }) => !ok && severity === "refuse")) process.exitCode = 1;
  },
});

async function examine(): Promise<Finding[]> {
  const config = readConfig();
  const findings = [
    // Set-up has judged it before this runs.
    finding("bun", true, `${Bun.version}`, ""),
    redisServer(config),
    dataDir(config),
  ];
  let running: RunningSkein | undefined;
  try {
    running = findRunning(config);
    findings.push(finding("skein", true, `running, pid ${running.pid}, ${running.urls.join(" ")}`, ""));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    findings.push(finding("skein", false, error.message, ""), await port(config));
  }
  for (const url of running?.urls ?? []) findings.push(await readiness(url));
  const redisUrl = running?.redisUrl ?? config.redisUrl;
  if (redisUrl !== undefined) findings.push(...(await redisSettings(config, redisUrl)));
  return findings;
}

function redisServer({ redisUrl }: Config): Finding {
  if (redisUrl !== undefined) return finding("redis-server", true, "not needed: SKEIN_REDIS_URL is set", "");
  const path = findRedisServer();
  return finding(
    "redis-server",
    path !== undefined,
    path ?? "none of 7.0 or newer on PATH",
    "`bun run workers` installs it.",
  );
}

function dataDir({ dataDir: folder }: Config): Finding {
  let existing = folder;
  while (!existsSync(existing)) existing = dirname(existing);
  try {
    accessSync(existing, constants.W_OK);
  } catch (error) {
    return finding(
      "data dir",
      false,
      (error as Error).message,
      "Make it writable, or set SKEIN_DATA_DIR to another folder.",
    );
  }
  const { bavail, bsize } = statfsSync(existing);
  const free = `${folder}, ${((bavail * bsize) / 1024 ** 3).toFixed(1)} GB free`;
  return finding("data dir", bavail * bsize >= FREE_BYTES_MIN, free, "Make room: a full disk stops Redis.");
}

async function port({ host, port: wanted }: Config): Promise<Finding> {
  try {
    Bun.listen({ hostname: host, port: wanted, socket: { data: () => undefined } }).stop(true);
    return finding("port", true, `${host}:${wanted} is free`, "");
  } catch (error) {
    return finding("port", false, `${host}:${wanted}: ${(error as Error).message}`, "Set SKEIN_PORT to a free port.");
  }
}

async function readiness(url: string): Promise<Finding> {
  const name = `readyz ${new URL(url).host}`;
  try {
    const response = await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(ANSWER_MS_MAX) });
    const body = await response.text();
    return finding(name, response.ok, response.ok ? "ready" : body, "Its reasons name what is missing.");
  } catch (error) {
    return finding(name, false, (error as Error).message, "Look at the log of the supervisor.");
  }
}

async function redisSettings(config: Config, redisUrl: string): Promise<Finding[]> {
  try {
    const redis = await openRedis(redisUrl, "skein-doctor", silentLog, ANSWER_MS_MAX);
    try {
      const findings = await checkRedis(redis, { ...config, redisUrl });
      return findings.map((each) => ({ ...each, name: `redis ${each.name}` }));
    } finally {
      await redis.close();
    }
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return [finding("redis", false, error.message, "Is it running, and SKEIN_REDIS_URL right?")];
  }
}

function finding(name: string, ok: boolean, found: string, remedy: string): Finding {
  return { name, ok, severity: "refuse", found, remedy };
}

function render(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ name }) => name.length));
  return findings
    .map(({ name, ok, severity, found, remedy }) => {
      const mark = ok ? "ok  " : severity === "warn" ? "warn" : "FAIL";
      return `${mark}  ${name.padEnd(width)}  ${found}${ok || remedy === "" ? "" : `. ${remedy}`}`;
    })
    .join("\n");
}
