"""Every limit of one machine, by name and unit. Nothing in Kythera waits, grows or retries
without one of these (or a field beside its own code) saying how far."""

from msgspec import Struct

MIB = 1024 * 1024


class Limits(Struct, frozen=True, kw_only=True):
    """The platform's limits; tests build tiny ones so that every edge is met on the first page."""

    # Cells
    idle_stop_s: float = 60.0
    """A cell without a request for this long is stopped; its socket stays."""
    restart_s: float = 86_400.0
    """How long a cell runs before it is replaced, on average: half to one and a half times this; 0:
    for ever."""
    start_ms: int = 10_000
    """A cell that is not ready by then is killed and counts as crashed."""
    drain_ms: int = 30_000
    """A cell told to stop is killed after this long (open WebSockets would hold it for ever)."""
    settle_ms: int = 1_500
    """Quiet time between moving traffic off a cell and telling it to stop."""
    crash_backoff_ms_min: int = 100
    crash_backoff_ms_max: int = 30_000
    crash_forget_s: float = 1.0
    """A cell that stayed up this long is started again at once; a shorter life backs off."""
    starts_failed_max: int = 3
    """Failed starts in a row after which waiting requests get 503 until the back-off ends."""
    saturated_cpu_share: float = 0.85
    saturated_s: float = 2.0
    quiet_cpu_share: float = 0.30
    """Mean CPU share below which (for `quiet_s`) one process of several is taken away."""
    quiet_s: float = 20.0
    processes_per_cell_max: int = 0
    """0 means: as many as the machine has cores."""
    heap_mib_max: int = 128
    cpu_ms: int = 30_000
    """CPU time that one turn of a worker's event loop may burn, unless its `limits.cpu_ms` says
    something else; then its process is killed."""
    cpu_ms_max: int = 300_000
    """The most that a worker may ask for; so it is with what ends in `_max` below."""
    memory_mib_max: int = 1_024
    open_files_max: int = 4_096
    """Of one process: its connections, mostly."""
    temporary_bytes_max: int = 16 * MIB
    """In memory, of one process."""
    subrequests: int = 0
    """What one request may ask of others, unless its worker's `limits.subrequests` says something else;
    0: nothing is counted there (decision 30)."""
    subrequests_max: int = 10_000_000
    """Cloudflare's figure."""
    outbound_connections: int = 64
    outbound_connections_max: int = 1_000
    queue_requests: int = 1_000
    """Requests under way or waiting for one worker on one machine, WebSockets among them; never more
    than half of the visitors' connections."""
    queue_requests_max: int = 100_000

    # Service bindings
    service_calls: int = 500
    """Calls and requests of one process to one other worker at the same time: what a loop through
    workers ends at, if nothing else ends it before. Less than half of `queue_requests`."""

    # Dispatch namespaces
    dispatch_namespaces_max: int = 1_000
    """Of one account."""
    dispatch_told_bytes_max: int = 4_096
    """Of the parameters that one dispatch hands to its outbound worker, as JSON in ASCII: they travel
    in the head of each request, which has to fit into `request_head_bytes_max` with all else."""

    # Durable Objects
    objects_leave_ms: int = 5_000
    """How long calls that are inside an object cell may take to end when it is replaced; WebSockets
    are not waited for."""
    object_bytes_max: int = 10 * 1024 * MIB
    """Of one object's database (Cloudflare's figure)."""

    # Workflows: as Cloudflare has them
    workflow_steps: int = 10_000
    """That one run of an instance may take, where its Worker's configuration says nothing,"""
    workflow_steps_max: int = 25_000
    """and what that may say at most."""
    workflow_payload_bytes_max: int = 1 * MIB
    """Of an instance's event, of an event sent to it, and of what a step returns."""
    workflow_sleep_s_max: int = 31_536_000
    """How long a step may sleep, or wait for an event."""
    workflow_retention_s_max: int = 2_592_000
    """How long an instance is kept after its end, where nothing else is said, and at most."""
    workflows_max: int = 500
    """Of an account."""
    workflow_call_ms: int = 30_000
    """What the API waits for an answer of the object cell."""

    # Egress
    egress_head_ms: int = 100_000
    """A server that has not begun to answer by then is given up."""
    egress_idle_ms: int = 100_000
    """A body that does not move for this long (up to twice that) is cut."""
    egress_tunnel_idle_ms: int = 600_000
    """The same for TCP."""
    egress_wait_ms: int = 30_000
    """How long a worker waits for one of its own outbound connections to become free."""
    egress_waiting_max: int = 1_000
    """How many of a worker's wait so at the same time; more are refused at once."""
    egress_connections_max: int = 4_000
    """Of all workers of a machine together."""
    egress_look_ms: int = 1_000
    """Between two looks at what the egress cell counts; also how current status is."""
    egress_silent_ms_max: int = 10_000
    """An egress cell that does not answer for this long is killed and replaced."""

    # R2
    r2_start_ms: int = 30_000
    """The engine must keep things by then; a store that is silent for longer is replaced."""
    r2_silent_ms_max: int = 60_000
    """An engine that says nothing in a request for this long is given up."""
    r2_object_bytes_max: int = 5 * 1024 * MIB - 5 * MIB
    """Of one put; what is larger comes in parts."""
    r2_part_bytes_max: int = 5 * 1024 * MIB - 5 * MIB
    r2_metadata_bytes_max: int = 8_192
    """Of custom metadata: names and values."""
    r2_api_object_bytes_max: int = 315_000_000
    """Of an object put through the API; wrangler stops at 300 MiB."""
    r2_buckets_max: int = 1_000
    r2_hot_bytes_max: int = 32 * MIB
    """Of short objects, just written or read, that the store keeps in its memory."""
    # Stores that are a workerd of their own
    store_look_ms: int = 1_000
    """Between two looks at whether a store answers."""
    store_silent_ms_max: int = 30_000
    """One that does not answer for this long is killed and replaced: longer than a statement may run."""
    store_drain_ms: int = 10_000
    """One told to stop, for its configuration has changed, is killed after this long."""
    store_heap_mib_max: int = 1_024
    """Of one store's JavaScript; who asks for more than fits ends the process, and another starts."""
    store_file_bytes_max: int = 16 * 1024 * MIB
    """Of one file: who writes beyond it is ended, so stores refuse before."""

    # Databases (D1): SQLite's own, as workerd sets them, are Cloudflare's
    d1_databases_max: int = 50_000
    d1_database_bytes_max: int = 10_000_000_000
    d1_query_ms: int = 30_000
    """The API gives a statement up after this long."""
    d1_import_bytes_max: int = 100 * MIB
    """Of a file of SQL: it is taken in as one transaction, from memory."""
    d1_import_ms: int = 300_000

    # Stop
    stop_ms: int = 10_000
    """Ctrl-C: everything has ended by then, drained if it could be, killed if not."""

    # Keeper
    agent_silent_ms_max: int = 5_000
    """An agent that does not answer the keeper for this long is killed and replaced."""
    child_backoff_ms_min: int = 100
    child_backoff_ms_max: int = 5_000

    # Uploads
    bundle_bytes_max: int = 64 * MIB
    modules_max: int = 1_000
    metadata_bytes_max: int = 2 * MIB
    bindings_max: int = 500
    binding_text_bytes_max: int = 1 * MIB
    secret_bytes_max: int = 128 * 1024
    json_body_bytes_max: int = 4 * MIB
    asset_bytes_max: int = 25 * MIB
    assets_files_max: int = 20_000
    assets_upload_bytes_max: int = 80 * MIB
    startup_ms_max: int = 1_000
    """Top-level code may burn this much before the upload is refused (10021)."""
    startup_deadline_ms: int = 8_000
    """Wall-clock deadline of the same trial, for code that sleeps instead of burning."""

    # Records
    record_bytes_max: int = 512 * 1024
    read_your_writes_ms: int = 8_000
    unfinished_ms: int = 1_000
    """How long an upload waits for one that has begun elsewhere, and may have died."""
    append_ms: int = 20_000
    """A fleet elects a new leader of its log within 8 s; writers wait meanwhile."""
    log_look_ms: int = 5_000
    """Between two questions to a server of the log whether it still writes;"""
    log_room_bytes_min: int = 16 * MIB
    """one that does not, for its disk was full, is started anew when there is so much room."""
    served_ms: int = 3_000
    """How long a deploy's answer waits for this machine's front door to serve it."""
    versions_kept_max: int = 100
    deployments_kept_max: int = 100

    # Workers KV
    kv_key_bytes_max: int = 512
    kv_value_bytes_max: int = 25 * MIB
    kv_metadata_bytes_max: int = 1_024
    kv_inline_bytes_max: int = 64 * 1024
    """Of values that the log itself carries; larger ones are blobs. Never more than a record."""
    kv_expiration_s_min: int = 60
    kv_cache_ttl_s_min: int = 30
    kv_list_max: int = 1_000
    kv_bulk_get_max: int = 100
    kv_bulk_get_bytes_max: int = 25 * MIB
    kv_bulk_write_max: int = 10_000
    """Keys that one call of the API writes or deletes,"""
    kv_bulk_write_bytes_max: int = 100 * MIB
    """and the size of its body."""
    kv_namespaces_max: int = 1_000
    kv_title_bytes_max: int = 512
    kv_log_bytes_max: int = 8 * 1024 * MIB
    """Of all keys' newest values in the log; a write above that is refused."""
    kv_copy_bytes_max: int = 64 * 1024 * MIB
    """Address space of this machine's copy, not disk."""
    kv_write_ms: int = 10_000
    """A write that the log has not acknowledged by then has failed, and may have been made or not."""
    kv_writes_at_once: int = 512
    """Writes that one machine sends to the log at the same time; others wait."""
    kv_large_at_once: int = 8
    """Values above `kv_inline_bytes_max` that are in memory at the same time; others wait."""
    kv_body_ms: int = 100_000
    """A value that has not arrived by then is given up."""
    kv_catch_up_ms: int = 10_000
    """How long a store that has just started waits for the log before it answers from its copy."""
    kv_sweep_s: float = 30.0
    """Between two looks at what has expired and which blobs nothing names."""
    kv_blob_grace_s: float = 600.0
    """A value's blob that nothing names goes after this."""
    kv_look_ms: int = 1_000
    """Between two questions whether the store answers,"""
    kv_silent_ms_max: int = 10_000
    """and how long it may not before it is killed and replaced."""

    # API tokens and audit
    api_token_life_s: float = 90 * 86_400.0
    """Unless its maker says something else, or `never`."""
    api_tokens_max: int = 500
    wrong_tokens_free: int = 5
    """So many wrong tokens of one client address are answered at once;"""
    wrong_token_wait_ms_min: int = 100
    """the next waits this long, each further one twice as long as the one before it,"""
    wrong_token_wait_ms_max: int = 5_000
    """up to this."""
    wrong_tokens_waiting_max: int = 64
    """Answers that wait at the same time; what comes beyond them is answered with 429."""
    wrong_token_clients_max: int = 1_000
    """Addresses that are remembered; the one that was quiet longest is forgotten first."""
    wrong_token_forget_s: float = 600.0
    wrong_token_journal_s: float = 10.0
    """Between two lines in the journal about wrong tokens."""
    audit_kept_max: int = 1_000
    """Changes that each machine remembers having been asked for; the oldest go."""
    audit_bytes_max: int = 16 * 1024
    """Of what one audit record says of before and after."""
    audit_late_max: int = 1_000
    """Audit records that wait in memory for a log that is away."""

    # Fleet
    token_life_s: float = 3_600.0
    token_life_s_max: float = 7 * 86_400.0
    certificate_life_s: float = 30 * 86_400.0
    certificate_renew_share: float = 0.5
    """A machine's certificate is renewed when this part of its life has passed."""
    key_absent_s: float = 20.0
    """A new key for secrets is used without machines that were away for this long; they get it
    when they come back, and the old one is kept until then."""
    heartbeat_ms: int = 1_000
    source_silent_ms_max: int = 3_000
    """A relay or core machine that says nothing for this long is left for another."""
    source_stalled_ms_max: int = 10_000
    """So is one that says it is there, but has nothing new (a heartbeat is) for this long."""
    source_rest_ms_min: int = 2_000
    source_rest_ms_max: int = 60_000
    """A source that was left is tried again after these, twice as long each time."""
    records_poll_ms: int = 10
    """How often a machine that relays looks whether its copy has grown."""
    records_pace_ms: int = 50
    """It sends at most one batch in this time: what comes quickly travels together."""
    batch_bytes_max: int = 1 * MIB
    """Of records that travel together."""
    tombstones_kept_s: float = 30 * 86_400.0
    """A machine away for longer takes a snapshot when it comes back."""
    peer_connect_ms: int = 2_000
    peer_answer_ms: int = 10_000
    fleet_status_ms: int = 5_000
    """A machine that has not told its status by then is shown as unreachable."""
    peer_check_ms: int = 500
    """Between two looks at a peer's health; two failures take it out."""
    blob_bytes_max: int = 20 * 1024 * MIB
    """Of blobs on a machine that is not core; the least recently used go first."""
    disk_free_bytes_min: int = 512 * MIB
    """Where the disk has less left, blobs make room as if `blob_bytes_max` were less."""
    prefetch_bytes_max: int = 4 * MIB
    """A new version up to this size is fetched before anybody asks for it."""
    blob_copies_min: int = 2
    """On how many machines (if there are so many) an upload is before it is acknowledged."""
    blob_transfers_at_once: int = 8
    """Blobs that a process fetches, or hands to one machine, at the same time."""
    blob_near_answer_ms: int = 1_000
    """A machine of this site that has not begun to answer by then is left for another."""
    blob_silent_ms: int = 5_000
    """So is one that stops in the middle for this long,"""
    blob_bytes_per_s_min: int = 16 * 1024
    """and one that is slower than this on the whole."""
    blob_peer_rest_s: float = 10.0
    """A machine that was left is asked last for this long; one that lied, a hundred times longer."""
    blob_prepare_ms: int = 8_000
    """How long the start of a cell waits for blobs; fetching goes on for the next try."""
    blob_retry_s: float = 5.0
    """Between tries to fetch ahead of need what could not be fetched."""
    blob_sweep_s: float = 300.0
    """Between two looks at which blobs may go."""
    blob_grace_s: float = 6 * 3_600.0
    """A blob that no version refers to goes after this; an upload has to be complete by then."""
    rare_requests_per_minute_max: int = 6
    """A worker with fewer requests on this machine is served from its home in the site."""
    frequent_requests_per_minute_min: int = 12
    """A worker served from its home that gets more here is served here again."""
    rare_window_s: float = 60.0
    """How long requests are counted before a worker is called rare."""
    home_load_factor: int = 150
    """In percent of the mean: a home with more lets the next one take it."""
    overloaded_cpu_share: float = 0.95
    overloaded_s: float = 5.0
    """A machine busier than this for so long hands a quarter of its workers to others, and after as
    long again the next quarter."""
    relieved_cpu_share: float = 0.70
    relieved_s: float = 10.0
    """One that is less busy for so long takes a quarter back."""
    failing_away_s: float = 30.0
    """How long others serve a worker after it was last seen not to start here."""

    # Cron
    cron_triggers_max: int = 250
    """Of all workers of an account, as Cloudflare's paid plan has it."""
    cron_catch_up_s: float = 43_200.0
    """A call that was missed, because nothing ran, is made up for when it is younger than this; of
    several of one trigger the latest."""
    cron_take_over_s: float = 20.0
    """How long the others leave a call to the machine whose turn it is, each as long again."""
    cron_calls_max: int = 32
    """Under way at the same time on one machine; more wait."""
    event_start_ms: int = 30_000
    """A handler (`scheduled`, `queue`) whose cell is not ready by then was not called."""
    event_wall_ms: int = 900_000
    """What such a handler may take, whatever it waits for."""
    event_tries_max: int = 3
    """Of a call that could not be made, or whose process died."""
    event_body_bytes_max: int = 32 * MIB
    """Of what a handler is given at once."""

    # Queues
    queues_max: int = 10_000
    """Of an account; this and what follows as Cloudflare has it."""
    queue_batch_messages_max: int = 100
    queue_batch_wait_ms_max: int = 60_000
    queue_retries_max: int = 100
    queue_concurrency_max: int = 250
    queue_delay_s_max: int = 86_400
    queue_hidden_ms_max: int = 43_200_000
    """How long a message that was pulled is kept from others."""
    queue_call_ms: int = 30_000
    """What the API waits for an answer of the store."""

    # Tails
    tails_per_worker_max: int = 10
    tail_idle_s: float = 30.0
    """A tail nobody connected to, or whose socket closed, is forgotten after this."""
    tail_events_per_s_max: int = 100
    """Above this a tail is sampled and told so."""
    tail_event_bytes_max: int = 256 * 1024

    # Stores
    rate_limit_keys_max: int = 200_000
    """Keys that a machine counts at the same time; the oldest windows go."""
    secrets_stores_max: int = 1
    """Secrets stores of an account (Cloudflare's, so the next two)."""
    secrets_store_secrets_max: int = 100
    secrets_store_bytes_max: int = 1_024
    """Of one secret's text there."""
    cache_object_bytes_max: int = 512 * MIB
    """Of one response in the cache (Cloudflare's); a larger one is not kept."""
    cache_bytes_max: int = 2 * 1024 * MIB
    """Of a machine's cache; what was used longest ago goes, of the account that takes most."""
    cache_silent_ms: int = 60_000
    """A response on its way into the cache that stops for this long is given up."""
    cache_purge_items_max: int = 100
    """URLs, hosts, prefixes and tags of one purge."""
    cache_purges_kept_max: int = 50
    """A machine that was away for more of them empties its cache."""
    hyperdrive_configs_max: int = 25
    """Of an account (Cloudflare's, so the next one)."""
    hyperdrive_connections_max: int = 100
    """To one database, from one machine."""
    hyperdrive_connect_ms: int = 15_000
    hyperdrive_idle_ms: int = 600_000
    """A connection to a database over which nothing moves for this long is closed."""
    analytics_point_bytes_max: int = 64 * 1024
    """Of one data point as workerd sends it; its blobs have 16 KiB at most, which workerd sees to."""
    analytics_kept_s: float = 92 * 86_400.0
    """How long data points are kept (Cloudflare's three months);"""
    analytics_bytes_max: int = 5 * 1024 * MIB
    """and how much of a machine's disk they take: the oldest go."""
    analytics_sql_bytes_max: int = 64 * 1024
    analytics_query_ms: int = 10_000
    """From a query's coming in to its answer."""
    analytics_rows_max: int = 10_000
    """Of one query's answer."""
    analytics_memory_mib: int = 512
    """Of one query."""

    # Front
    connections_max: int = 0
    """Visitors' connections on one machine at the same time; 0: four fifths of what its open files
    allow. What is above is told so."""
    connections_per_client_max: int = 2_000
    """Of one address (IPv6: of one /64) at the same time, and never more than half of all."""
    request_head_bytes_max: int = 14 * 1024
    """The longest request head, without its first line. HAProxy's buffers, and so the longest head of
    an answer, follow from it."""
    request_headers_max: int = 100
    url_bytes_max: int = 8 * 1024
    request_body_bytes_max: int = 5 * 1024 * MIB
    slow_look_s: float = 5.0
    """How often bodies and answers under way are looked at."""
    slow_body_s: float = 30.0
    body_bytes_per_s_min: int = 240
    """Who sends a body that nothing else holds up more slowly on the mean of `slow_body_s` is hung up
    on (0: nobody is);"""
    slow_reader_s: float = 100.0
    answer_bytes_per_s_min: int = 240
    """so is who reads an answer that waits all the while more slowly on the mean of `slow_reader_s`,
    which is long because a kernel takes and gives in lumps."""
    client_idle_s: int = 120
    """A client that takes nothing at all of what waits for it, or says nothing in a TLS handshake,
    is left after this. One that waits itself may do so for `response_wait_s`."""
    request_head_s: int = 30
    keep_alive_s: int = 75
    tunnel_idle_s: int = 86_400
    response_wait_s: int = 600
    front_hard_stop_s: int = 86_400
    retry_after_s: int = 5
