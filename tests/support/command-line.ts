/**
 * The commands of `bun run skein` in this process: what one prints and the code it would exit with. A start of Bun costs more
 * CPU time than most of them do, and that they are a process tests/scripts/skein.test.ts shows. One at a time.
 */

import { spyOn } from "bun:test";
import { runCommand } from "citty";
import { skein } from "../../scripts/skein/main.ts";

export interface CommandResult {
  readonly out: string;
  readonly err: string;
  readonly code: number;
}

/** Runs a command on the Skein of a data dir. Throws what the process would crash with. */
export async function runSkeinCommand(dataDir: string, args: readonly string[]): Promise<CommandResult> {
  const settings = Object.entries(process.env).filter(([name]) => name.startsWith("SKEIN_"));
  const clear = () => {
    for (const name of Object.keys(process.env)) if (name.startsWith("SKEIN_")) delete process.env[name];
  };
  const [out, err]: [string[], string[]] = [[], []];
  const printed = spyOn(console, "log").mockImplementation((line) => void out.push(`${line}\n`));
  const complained = spyOn(console, "error").mockImplementation((line) => void err.push(`${line}\n`));
  clear();
  process.env.SKEIN_DATA_DIR = dataDir;
  try {
    await runCommand(skein, { rawArgs: [...args] });
    return { out: out.join(""), err: err.join(""), code: Number(process.exitCode ?? 0) };
  } finally {
    process.exitCode = 0;
    clear();
    Object.assign(process.env, Object.fromEntries(settings));
    printed.mockRestore();
    complained.mockRestore();
  }
}
