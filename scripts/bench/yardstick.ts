/**
 * The yardstick: how many reference commits a second one redis-server does on this machine, driven by redis-benchmark. Every
 * other figure is read beside it, for machines differ and so do days.
 */

import { type Fsync, startBenchRedis } from "./redis.ts";
import lua from "./yardstick.lua" with { type: "text" };

const CONVERSATIONS = 1_000;
const CLIENTS = 50;
const PIPELINE = 64;
const BODY_BYTES = 100;

/** Commits per second, the median of `runs` runs of `commits` each on a fresh server. */
export async function measureYardstick(fsync: Fsync, { runs = 3, commits = 400_000 } = {}): Promise<number> {
  const rates: number[] = [];
  for (let run = 0; run < runs; run++) rates.push(await runOnce(fsync, commits));
  return rates.sort((a, b) => a - b)[Math.floor(rates.length / 2)]!;
}

async function runOnce(fsync: Fsync, commits: number): Promise<number> {
  const binary = Bun.which("redis-benchmark") ?? Bun.which("valkey-benchmark");
  if (!binary) throw new Error("redis-benchmark is not installed: it comes with redis-server (Debian: redis-tools)");
  const redis = await startBenchRedis(fsync);
  try {
    const seeding = redis.client.pipeline();
    // redis-benchmark writes its random numbers with 12 digits.
    for (let i = 0; i < CONVERSATIONS; i++) seeding.sadd(`m:{${String(i).padStart(12, "0")}}`, "u1", "u2");
    await seeding.exec();
    const sha = (await redis.client.script("LOAD", lua)) as string;
    const random = "__rand_int__";
    const output =
      await Bun.$`${binary} -p ${redis.port} -c ${CLIENTS} -r ${CONVERSATIONS} -P ${PIPELINE} -n ${commits} --csv EVALSHA ${sha} 0 ${random} u1 ${random.repeat(3)} ${"x".repeat(BODY_BYTES)}`
        .quiet()
        .text();
    const arrived = await redis.client.xlen("topic");
    if (arrived < commits * 0.97) throw new Error(`the yardstick's commits did not arrive: ${arrived} of ${commits}`);
    const fields = output.trim().split("\n").at(-1)!.replaceAll('"', "").split(",");
    // From the end: rps, then six latency columns; the command itself may hold commas.
    return Math.round(Number(fields.at(-7)));
  } finally {
    await redis.stop();
  }
}
