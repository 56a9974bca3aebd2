/** `bun run workers [role…]`: set-up, then the supervisor. Nothing is imported from packages before they are installed. */

import { runWithSetUp } from "./setup.ts";

await runWithSetUp(new URL("./supervisor.ts", import.meta.url).pathname);
