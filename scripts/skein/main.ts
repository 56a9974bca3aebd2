/** The commands of `bun run skein`. A Failure is one line on standard error and exit code 1; anything else is a fault of ours. */

import { type ArgsDef, type CommandDef, defineCommand, runMain } from "citty";
import { AppError } from "../../lib/errors.ts";
import { chat } from "./chat.ts";
import { deadLetters } from "./dead-letters.ts";
import { delayed } from "./delayed.ts";
import { doctor } from "./doctor.ts";
import { groups } from "./groups.ts";
import { half } from "./half.ts";
import { layers } from "./layers.ts";
import { replay } from "./replay.ts";
import { Failure } from "./running.ts";
import { token } from "./token.ts";
import { topics } from "./topics.ts";
import { trace } from "./trace.ts";

export const skein = defineCommand({
  meta: { name: "skein", description: "Look into a running Skein, chat with it, test it with real chat" },
  subCommands: {
    token: withPlainFailures(token),
    layers: withPlainFailures(layers),
    topics: withPlainFailures(topics),
    groups: withPlainFailures(groups),
    "dead-letters": withPlainFailures(deadLetters),
    delayed: withPlainFailures(delayed),
    half: withPlainFailures(half),
    trace: withPlainFailures(trace),
    doctor: withPlainFailures(doctor),
    chat: withPlainFailures(chat),
    replay: withPlainFailures(replay),
  },
});

function withPlainFailures<A extends ArgsDef>(command: CommandDef<A>): CommandDef<A> {
  const { run, subCommands } = command;
  return {
    ...command,
    ...(run && {
      async run(context) {
        try {
          await run(context);
        } catch (error) {
          if (!(error instanceof Failure || error instanceof AppError)) throw error;
          console.error(error.message);
          process.exitCode = 1;
        }
      },
    }),
    ...(subCommands && {
      subCommands: Object.fromEntries(
        Object.entries(subCommands as Record<string, CommandDef>).map(([name, each]) => [
          name,
          withPlainFailures(each),
        ]),
      ),
    }),
  };
}

if (import.meta.main) await runMain(skein);
