%% Drives rewards in closed loop, on the lines of its standard input:
%%   measure PATH IN_FLIGHT MILLISECONDS  ->  sample COUNT UNCOUNTED ELAPSED_US P50 P99 P999
%%   check                                ->  right, or wrong REASON
%% Latencies are in microseconds. UNCOUNTED are the rewards that were answered before or after the measured time.
%% The players are those of the module that it is started with (plain or batched), their keepers on another node.
-module(driver).
-export([owner/1, keeper/1]).

-define(PLAYERS, 10000).
-define(FINE, 4096).      % latencies up to here have a bucket per microsecond,
-define(COARSE, 16384).   % beyond, one per 64.
-define(UNCOUNTED, (?FINE + ?COARSE + 1)).
-define(WARM_UP_MS, 300).
%% Phases of a measurement.
-define(WARMING, 0).
-define(COUNTING, 1).
-define(OVER, 2).

%% The node of the keepers: it does what it is asked, until its input ends.
keeper(_) ->
    io:format("up~n"),
    drain(),
    halt().

drain() ->
    case io:get_line("") of
        eof -> ok;
        _ -> drain()
    end.

%% The node of the players.
owner([Module, Keepers]) ->
    true = connect(Keepers, 100),
    Players = list_to_tuple(Module:start(Keepers, ?PLAYERS)),
    Given = counters:new(?PLAYERS, [write_concurrency]),
    io:format("up~n"),
    loop(Module, Players, Given).

connect(_, 0) -> false;
connect(Node, Tries) ->
    case net_kernel:connect_node(Node) of
        true -> true;
        _ -> timer:sleep(50), connect(Node, Tries - 1)
    end.

loop(Module, Players, Given) ->
    case io:get_line("") of
        eof -> halt();
        Line ->
            case string:lexemes(Line, " \n") of
                ["measure", _Path, InFlight, Ms] ->
                    measure(Players, Given, list_to_integer(InFlight), list_to_integer(Ms));
                ["check"] ->
                    check(Module, Players, Given)
            end,
            loop(Module, Players, Given)
    end.

%% The measured time starts when all clients are there, and have asked for a while.
measure(Players, Given, InFlight, Ms) ->
    Latencies = counters:new(?UNCOUNTED, [write_concurrency]),
    Phase = atomics:new(1, []),
    Client = fun(C) ->
                 receive go -> client(rand:seed_s(exsss, C), Players, Given, Latencies, Phase) end
             end,
    Clients = [spawn_monitor(fun() -> Client(C) end) || C <- lists:seq(1, InFlight)],
    [Pid ! go || {Pid, _} <- Clients],
    timer:sleep(?WARM_UP_MS),
    Start = now_us(),
    atomics:put(Phase, 1, ?COUNTING),
    timer:sleep(Ms),
    atomics:put(Phase, 1, ?OVER),
    Elapsed = now_us() - Start,
    [receive {'DOWN', Ref, process, Pid, Reason} -> normal = Reason end || {Pid, Ref} <- Clients],
    Counts = [counters:get(Latencies, I) || I <- lists:seq(1, ?FINE + ?COARSE)],
    Count = lists:sum(Counts),
    io:format("sample ~b ~b ~b ~b ~b ~b~n",
              [Count, counters:get(Latencies, ?UNCOUNTED), Elapsed
               | [quantile(Counts, Count * Q, 0, 1) || Q <- [0.5, 0.99, 0.999]]]).

client(Dice, Players, Given, Latencies, Phase) ->
    client(now_us(), Dice, Players, Given, Latencies, Phase).

client(Asked, Dice, Players, Given, Latencies, Phase) ->
    {At, Next} = rand:uniform_s(?PLAYERS, Dice),
    _ = gen_server:call(element(At, Players), {reward, 1}, infinity),
    Answered = now_us(),
    counters:add(Given, At, 1),
    case atomics:get(Phase, 1) of
        ?WARMING ->
            counters:add(Latencies, ?UNCOUNTED, 1),
            client(Answered, Next, Players, Given, Latencies, Phase);
        ?COUNTING ->
            counters:add(Latencies, bucket(Answered - Asked), 1),
            client(Answered, Next, Players, Given, Latencies, Phase);
        ?OVER ->
            counters:add(Latencies, ?UNCOUNTED, 1)
    end.

bucket(Us) when Us < ?FINE -> Us + 1;
bucket(Us) -> ?FINE + min(Us div 64, ?COARSE - 1) + 1.

quantile([], _, _, _) -> 0;
quantile([N | Rest], Wanted, Seen, At) ->
    case Seen + N >= Wanted of
        true when At =< ?FINE -> max(At - 1, 1);
        true -> (At - ?FINE - 1) * 64;
        false -> quantile(Rest, Wanted, Seen + N, At + 1)
    end.

%% Every player, and its keeper, has what it was given.
check(Module, Players, Given) ->
    Wrong = [I || I <- lists:seq(1, ?PLAYERS),
                  Points <- [counters:get(Given, I)],
                  {Points, Points} =/= Module:points(element(I, Players))],
    case Wrong of
        [] -> io:format("right~n");
        _ -> io:format("wrong ~b players~n", [length(Wrong)])
    end.

now_us() -> erlang:monotonic_time(microsecond).
