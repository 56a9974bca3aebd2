/** The machine and the versions that a figure belongs to. */

import { readFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";

export interface Hardware {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGb: number;
  readonly platform: string;
  readonly bun: string;
  readonly redis: string;
  /** Share of the cores that others used while the bench looked, 0..1: above some percent the figures are not to be trusted. */
  readonly busy: number;
}

const BUSY_SAMPLE_MS = 500;
/** Above this the machine is not ours. */
const BUSY_MAX = 0.05;

export async function readHardware(): Promise<Hardware> {
  const binary = Bun.which("redis-server") ?? Bun.which("valkey-server") ?? "redis-server";
  const version = await Bun.$`${binary} --version`.quiet().nothrow().text();
  const found = cpus();
  return {
    cpu: found[0]?.model.trim() ?? "unknown",
    cores: found.length,
    memoryGb: Math.round(totalmem() / 2 ** 30),
    platform: `${process.platform} ${process.arch}`,
    bun: Bun.version,
    redis: /v=(\S+)/.exec(version)?.[1] ?? "unknown",
    busy: await sampleBusy(),
  };
}

export function printHardware(hardware: Hardware, print: (line: string) => void): void {
  const { cpu, cores, memoryGb, platform, bun, redis, busy } = hardware;
  print(`${cores} cores, ${cpu}, ${memoryGb} GB, ${platform}; Bun ${bun}, Redis ${redis}`);
  if (busy > BUSY_MAX) {
    print(`others use ${Math.round(busy * 100)} % of the CPU: read the ratios, not the figures`);
  }
}

async function sampleBusy(): Promise<number> {
  const read = startMachineWatch();
  await Bun.sleep(BUSY_SAMPLE_MS);
  const { busyCores, cores } = read();
  return busyCores / cores;
}

export interface MachineUse {
  /** Cores in use, by anyone; NaN outside Linux. */
  readonly busyCores: number;
  readonly cores: number;
}

/** Watches the whole machine from now until the returned function is called. */
export function startMachineWatch(): () => MachineUse {
  const before = readCpuTicks();
  return () => {
    const after = readCpuTicks();
    const all = after.all - before.all;
    const cores = cpus().length;
    return { busyCores: all > 0 ? cores * (1 - (after.idle - before.idle) / all) : Number.NaN, cores };
  };
}

/** All cores together. Not os.cpus(): Bun's reports no times on every Linux. NaN outside Linux. */
function readCpuTicks(): { idle: number; all: number } {
  if (process.platform !== "linux") return { idle: Number.NaN, all: Number.NaN };
  // cpu  user nice system idle iowait irq softirq steal …
  const ticks = readFileSync("/proc/stat", "utf8").split("\n", 1)[0]!.trim().split(/\s+/).slice(1, 9).map(Number);
  return { idle: ticks[3]! + ticks[4]!, all: ticks.reduce((sum, value) => sum + value, 0) };
}
