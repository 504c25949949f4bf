//! The text of `--help`.

pub(crate) const HELP: &str = "\
Sends each line of a file to a chat or embeddings API, through rate limits and outages, and resumes
where it was stopped.

usage: batch IN.jsonl -o OUT.jsonl [options]        - stands for standard input or output

The API key is read from HOLYSHEEP_API_KEY. HOLYSHEEP_BASE_URL names another service than
https://api.holysheep.ai/v1.

Lines of IN, one JSON object each
  {\"prompt\": \"…\"} or {\"messages\": […]}
      Request parameters beside it (temperature, max_tokens, …) are sent. All other fields are
      columns: they are never sent, and come back in OUT.
  {\"input\": \"…\"} or {\"input\": [\"…\", …]}
      The same for embeddings, with their parameters (dimensions, …).
  {\"id\": …, \"request\": {…}}
      All of the request is sent as it is. Fields beside it are columns.
  {\"custom_id\": …, \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {…}}
      OpenAI's Batch format; or with the url /v1/embeddings. Anthropic's, with params, is read where
      the params fit.
All lines are for chats, or all for embeddings: what the first line asks for.
An id (or custom_id) of any type comes back byte for byte.

Lines of OUT, one for each item, as they are finished
  id, index (of the item, from 0), crc32 (of the line of IN), settings (a checksum of --model,
  --system, --set and --template), answer, embeddings (a vector of numbers for each text),
  finish_reason, model, usage, response (if it has more than the text), flags (length, empty, filter,
  refusal, not_json), error (kind, message, status, retryable), columns, attempts, seconds

What to send
      --model NAME        model of the lines that name none
      --system TEXT       system message of the lines that have none
      --set KEY=VALUE     request parameter of the lines that don't have it; VALUE is JSON or text;
                          may be repeated
      --template TEXT     the prompt, with columns in braces: 'Translate: {text}'. Braces themselves
                          are doubled: {{ }}
      --shard I/N         only the Ith of N equal shares, I from 1: the same lines each time
      --limit N           only N of the items that are left
      --dry-run           only check IN and count what is left; nothing is sent or written, and no
                          key is needed

How fast
      --concurrency N     requests in flight at most [8]; each needs an open file (ulimit -n)
      --rpm N             requests a minute at most; with --shard, of all shards together
      --tpm N             tokens a minute, roughly; with --shard, of all shards together
      --timeout SECONDS   longest time without progress while sending, waiting for or reading an
                          answer [60]
      --deadline SECONDS  time limit of one item, retries included, time in the queue excluded [none]

What counts as failed
      --fail-on KINDS     answers that count as failures [empty,filter]: a list of length (cut by the
                          token limit), empty, filter (content filter) and refusal; or none. By
                          default those fail that leave no text to use. A cut answer or a refusal is
                          text, often a wanted one, and the same request would get it again
      --expect-json       an answer that isn't JSON fails where response_format asks for JSON; with
                          --expect-json=all, in all lines

Resuming
      --resume            skip the items in OUT, and append to it
      --retry-failed      with --resume: send failed items again, and those with flags in --fail-on
      --no-lock           don't lock OUT, if its file system can't; no other run may write to it

When to stop early (requests in flight finish, and --resume continues)
      --fail-fast         at the first failure
      --stop-after N      after N failures of one kind in a row with no answer between [100], such as
                          403. They aren't written, so --resume sends them again. What may be a
                          fault of single requests (400, 413, 422, a bad line) stops a run only if
                          nothing was ever answered
      --first-answer SECONDS
                          if nothing was answered in the time after the first failure [600], while
                          the service can't be reached or fails
      --max-tokens N      once about N tokens were used, earlier runs on OUT included. (To limit the
                          length of each answer: --set max_tokens=N)
      --max-cost DOLLARS  the same for the cost; needs --price
A refused key, an empty account, a full disk or a changed input stop a run at once.

What to report
      --format FORMAT     native, or openai for the output lines of OpenAI's Batch API [native]
      --in-order          write OUT in the order of IN; up to eight answers for each request in
                          flight wait for slower ones
      --price IN,OUT[,CACHED]
                          dollars for a million tokens of input, output and cached input
      --summary FILE      write the summary as JSON, too; - for standard output
  -h, --help
  -V, --version

Overnight
  nohup batch prompts.jsonl -o answers.jsonl --model gpt-4.1 --resume > batch.log 2>&1 &
Where stderr is no terminal, a line every 30 seconds says what is done, the cost, the time left, and
what the run waits for and why. RUST_LOG=holysheep=warn adds each retry. A run waits through outages,
and for as long as a server asks, up to a day.

Signals
The first SIGINT (Ctrl-C), SIGTERM or SIGHUP lets the requests in flight finish, the second one aborts
them. A signal that is ignored at the start, as by nohup, stays ignored where /proc/self/status tells
so (Linux). Elsewhere SIGHUP isn't handled: with nohup it is ignored, without it ends the run at once.
After any end, also kill -9 or a crash, run the same command again with --resume: only requests that
were in flight are sent again.

Exit status
  0  all items are answered
  1  some failed, in this or an earlier run
  2  the run couldn't continue
  3  --max-cost or --max-tokens stopped it
130  it was interrupted";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[test]
    fn help_fits_the_screen_and_names_only_existing_options() {
        for line in HELP.lines() {
            assert!(line.chars().count() <= 102, "{line}");
            let Some(option) = line.strip_prefix("      --") else { continue };
            let name = option.split([' ', '=']).next().unwrap();
            let parsed = Options::default().set(name, &mut lexopt::Parser::from_args([""; 0]));
            assert!(!matches!(parsed, Ok(false)), "there is no --{name}");
        }
    }

    #[test]
    fn defaults_are_as_documented() {
        let Options { concurrency, stop_after, first_answer, fail_on, .. } = Options::default();
        let kinds: Vec<&str> = fail_on.iter().map(|flag| flag.name()).collect();
        for said in [
            format!("in flight at most [{concurrency}]"),
            format!("no answer between [{stop_after}]"),
            format!("first failure [{}]", first_answer.as_secs()),
            format!("count as failures [{}]", kinds.join(",")),
        ] {
            assert!(HELP.contains(&said), "{said}");
        }
    }
}
