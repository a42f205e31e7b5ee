%% Drives rewards in closed loop, on the lines of its standard input:
%%   measure PATH IN_FLIGHT MILLISECONDS  ->  sample COUNT ELAPSED_US P50 P99 P999 (latencies in microseconds)
%%   check                            ->  right, or wrong REASON
%% The players are those of the module that it is started with (plain or batched), their keepers on another node.
-module(driver).
-export([owner/1, keeper/1]).

-define(PLAYERS, 10000).
-define(FINE, 4096).      % latencies up to here have a bucket per microsecond,
-define(COARSE, 16384).   % beyond, one per 64.

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

measure(Players, Given, InFlight, Ms) ->
    Latencies = counters:new(?FINE + ?COARSE, [write_concurrency]),
    Stop = atomics:new(1, []),
    Start = now_us(),
    Clients = [spawn_monitor(fun() -> client(rand:seed_s(exsss, C), Players, Given, Latencies, Stop) end)
               || C <- lists:seq(1, InFlight)],
    timer:sleep(Ms),
    atomics:put(Stop, 1, 1),
    [receive {'DOWN', Ref, process, Pid, Reason} -> normal = Reason end || {Pid, Ref} <- Clients],
    Elapsed = now_us() - Start,
    Counts = [counters:get(Latencies, I) || I <- lists:seq(1, ?FINE + ?COARSE)],
    Count = lists:sum(Counts),
    io:format("sample ~b ~b ~b ~b ~b~n",
              [Count, Elapsed | [quantile(Counts, Count * Q, 0, 1) || Q <- [0.5, 0.99, 0.999]]]).

client(Dice, Players, Given, Latencies, Stop) ->
    case atomics:get(Stop, 1) of
        1 -> ok;
        0 ->
            {At, Next} = rand:uniform_s(?PLAYERS, Dice),
            Start = now_us(),
            _ = gen_server:call(element(At, Players), {reward, 1}, infinity),
            counters:add(Latencies, bucket(now_us() - Start), 1),
            counters:add(Given, At, 1),
            client(Next, Players, Given, Latencies, Stop)
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
