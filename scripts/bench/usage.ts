/** What processes cost: CPU time and memory out of /proc. Linux only; elsewhere every figure is NaN and prints as "-". */

import { readFileSync } from "node:fs";

/** USER_HZ: fixed at 100 on every Linux that Bun supports. */
const TICKS_PER_SECOND = 100;

export interface Cpu {
  readonly userSeconds: number;
  readonly systemSeconds: number;
}

/** CPU time of a process so far, with its threads. */
export function cpuOf(pid: number): Cpu {
  try {
    // The command name, in parentheses, may hold anything: count fields from behind it.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { userSeconds: Number(fields[11]) / TICKS_PER_SECOND, systemSeconds: Number(fields[12]) / TICKS_PER_SECOND };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return { userSeconds: Number.NaN, systemSeconds: Number.NaN };
  }
}

/** Resident bytes of a process. */
export function residentBytesOf(pid: number): number {
  try {
    const found = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
    return found ? Number(found[1]) * 1_024 : Number.NaN;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return Number.NaN;
  }
}

export type CpuByName = Readonly<Record<string, Cpu>>;

/** Takes the CPU time of named processes now; the call it returns gives what each used since. */
export function startCpuWatch(pids: Readonly<Record<string, number>>): () => CpuByName {
  const before = Object.entries(pids).map(([name, pid]) => ({ name, pid, cpu: cpuOf(pid) }));
  return () =>
    Object.fromEntries(
      before.map(({ name, pid, cpu }) => {
        const now = cpuOf(pid);
        return [
          name,
          {
            userSeconds: now.userSeconds - cpu.userSeconds,
            systemSeconds: now.systemSeconds - cpu.systemSeconds,
          },
        ];
      }),
    );
}

export const totalSeconds = ({ userSeconds, systemSeconds }: Cpu): number => userSeconds + systemSeconds;
