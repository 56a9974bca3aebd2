/** What the system knows of a process. */

import { readdirSync, readFileSync } from "node:fs";

/** Whether it runs; a zombie does not. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return statOf(pid)[0] !== "Z";
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH" || (error as NodeJS.ErrnoException).code === "ENOENT")
      return false;
    throw error;
  }
}

export function childrenOf(pid: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((candidate) => isAlive(candidate) && parentOf(candidate) === pid);
}

export function parentOf(pid: number): number {
  return Number(statOf(pid)[1]);
}

/** The session's leader. Who is in another session gets no signal of the terminal's keys. */
export function sessionOf(pid: number): number {
  return Number(statOf(pid)[3]);
}

/** State, parent, group, session, … (proc(5)). The name before them may hold spaces and brackets. */
function statOf(pid: number): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, "latin1");
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
}
