%% A gen_server per player; what changes goes through one process per peer, which has one batch in flight: updates
%% collect while it flies. The keepers of all players are one map on the other node. The answer comes straight from the
%% process that has the acknowledgement.
-module(batched).
-behaviour(gen_server).
-export([start/2, points/1, keep/0]).
-export([init/1, handle_call/3, handle_cast/2]).

start(Keepers, Count) ->
    Keeper = spawn(Keepers, ?MODULE, keep, []),
    Replicator = spawn(fun() -> collect(Keeper) end),
    [begin
         Name = iolist_to_binary(io_lib:format("player~10..0b", [I])),
         {ok, Pid} = gen_server:start(?MODULE, {Name, Replicator, Keeper}, []),
         Pid
     end || I <- lists:seq(1, Count)].

points(Player) ->
    gen_server:call(Player, points, infinity).

init({Name, Replicator, Keeper}) -> {ok, {Name, Replicator, Keeper, 0}}.

handle_call({reward, N}, From, {Name, Replicator, Keeper, Points}) ->
    New = Points + N,
    Replicator ! {put, Name, New, From},
    {noreply, {Name, Replicator, Keeper, New}};
handle_call(points, _From, {Name, _, Keeper, Points} = State) ->
    Keeper ! {get, self(), Name},
    receive {got, Name, Kept} -> {reply, {Points, Kept}, State} end.

handle_cast(_, State) -> {noreply, State}.

%% Nothing is in flight: the first update flies alone, with whatever else is there.
collect(Keeper) ->
    receive {put, _, _, _} = Put -> fly(Keeper, more([Put])) end.

more(Puts) ->
    receive {put, _, _, _} = Put -> more([Put | Puts])
    after 0 -> Puts
    end.

fly(Keeper, Puts) ->
    Keeper ! {batch, self(), [{Name, Points} || {put, Name, Points, _} <- lists:reverse(Puts)]},
    receive acknowledged -> ok end,
    [gen_server:reply(From, Points) || {put, _, Points, From} <- lists:reverse(Puts)],
    collect(Keeper).

keep() -> keep(#{}).

keep(Map) ->
    receive
        {batch, From, Batch} ->
            New = lists:foldl(fun({Name, Points}, M) -> M#{Name => Points} end, Map, Batch),
            From ! acknowledged,
            keep(New);
        {get, From, Name} ->
            From ! {got, Name, maps:get(Name, Map, 0)},
            keep(Map)
    end.
